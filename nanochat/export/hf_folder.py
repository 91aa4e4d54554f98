"""Folders of transformers: our own exports, and models of its stock class."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from nanochat.checkpoint.meta import check_shape, from_plain
from nanochat.config import parse_json
from nanochat.export.hf_config import FACTS, beyond_stock, stock_shape
from nanochat.export.hf_tokenizer import read_hf_tokenizer
from nanochat.export.incoming import Incoming, made_up_meta_of, one_line
from nanochat.export.libraries import require
from nanochat.export.names import filled_up, renamed, turned

_REFERENCE_NAME = "transformer.wte.weight"


def is_hf_folder(directory: Path) -> bool:
    """Whether a folder has what transformers loads."""
    return (directory / "config.json").is_file()


def read_hf_folder(directory: Path) -> Incoming:
    """The model of a folder. Raises ValueError for another architecture, and for files that do not fit together."""
    require("safetensors")
    table = parse_json((directory / "config.json").read_bytes())
    if not isinstance(table, dict):
        raise ValueError(f"{directory / 'config.json'} is not the config of a model")
    if not (directory / "tokenizer.json").is_file():
        raise ValueError(f"{directory} has no tokenizer.json")
    tokenizer = read_hf_tokenizer(directory / "tokenizer.json")
    if FACTS in table:
        meta = from_plain(table[FACTS])
        origin = f"an export of {meta.stage} step {meta.step}"
    else:
        config = stock_shape(table)
        check_shape(config)
        meta = made_up_meta_of(config, tokenizer, "sft", step=1)
        origin = "a model of transformers' class"
    if (tokenizer.hash, tokenizer.vocab_size) != (meta.tokenizer, meta.model.vocab_size):
        raise ValueError(f"the tokenizer in {directory} is not that of its model")
    tensors = {name: tensor.float() for name, tensor in _tensors(directory).items()}
    by_reference = _REFERENCE_NAME in tensors
    state = renamed(tensors, "reference" if by_reference else "transformers", "ours")
    if by_reference or not beyond_stock(meta.model):
        state = turned(state, meta.model.head_dim)
    return Incoming(meta, filled_up(state, meta.model), tokenizer, origin)


def _tensors(directory: Path) -> dict[str, Tensor]:
    """Those of all safetensors files. Raises ValueError if there are none, or one is damaged."""
    from safetensors.torch import load_file

    files = sorted(directory.glob("*.safetensors"))
    if not files:
        raise ValueError(f"{directory} has no *.safetensors: other formats are not read")
    tensors: dict[str, Tensor] = {}
    for file in files:
        try:
            tensors |= load_file(file)
        except Exception as error:  # safetensors' own error is no subclass of a common one
            raise ValueError(f"{file} cannot be read: {one_line(error)}") from None
    return tensors
