"""`nanochat import PATH`: a checkpoint of karpathy/nanochat or a folder of transformers becomes a run of ours."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro

from nanochat.checkpoint import store
from nanochat.checkpoint.loading import TOKENIZER_DIR, check_weights
from nanochat.console import amount, say
from nanochat.export.hf_folder import is_hf_folder, read_hf_folder
from nanochat.export.incoming import Incoming
from nanochat.export.reference import EraName, is_reference, read_reference
from nanochat.model.cost import meta_model
from nanochat.paths import Paths


@dataclass(frozen=True)
class ImportConfig:
    """Read a model from elsewhere as a run, to chat with, evaluate, serve or fine-tune."""

    path: Annotated[Path, tyro.conf.Positional]
    """A folder with model_*.pt of karpathy/nanochat, or with config.json and *.safetensors."""
    model_tag: str | None = None
    """Name of the run (default: that of the folder)."""
    step: int | None = None
    """Which checkpoint of a folder with several (default: the newest)."""
    tokenizer_file: Path | None = None
    """The tokenizer.pkl of karpathy/nanochat (default: where that keeps it)."""
    era: EraName | None = None
    """Date of the version of karpathy/nanochat that trained it (default: recognised from its tensors)."""


@dataclass(frozen=True)
class ImportResult:
    """The run that was made."""

    model_tag: str
    step: int
    origin: str
    parameters: int


def _read_hf(config: ImportConfig) -> Incoming:
    if (config.step, config.tokenizer_file, config.era) != (None, None, None):
        raise ValueError("--step, --tokenizer-file and --era are for checkpoints of karpathy/nanochat")
    return read_hf_folder(config.path)


_READERS: tuple[tuple[Callable[[Path], bool], Callable[[ImportConfig], Incoming]], ...] = (
    (is_reference, lambda c: read_reference(c.path, c.step, c.tokenizer_file, c.era)),
    (is_hf_folder, _read_hf),
)


def run_import(config: ImportConfig, paths: Paths) -> ImportResult:
    """Run the verb. Raises ValueError for a folder that holds no such model, and for a run that exists."""
    if not config.path.is_dir():
        raise ValueError(f"{config.path} is not a folder")
    tag = config.model_tag or re.sub(r"[^A-Za-z0-9._-]+", "-", config.path.resolve().name).lstrip("._-")
    directory = paths.checkpoints(tag)
    if store.steps_with_meta(directory):
        raise ValueError(f"there is a run {tag!r} already: choose another --model-tag")
    read = next((read for recognises, read in _READERS if recognises(config.path)), None)
    if read is None:
        raise ValueError(f"{config.path} holds neither model_*.pt with meta_*.json nor config.json")
    incoming = read(config)
    check_weights(meta_model(incoming.meta.model), incoming.state, config.path)
    if incoming.tokenizer.vocab_size != incoming.meta.model.vocab_size:
        raise ValueError(
            f"the tokenizer has {incoming.tokenizer.vocab_size:,} tokens, "
            f"but the model {incoming.meta.model.vocab_size:,}"
        )
    incoming.tokenizer.save(directory / TOKENIZER_DIR)
    meta = replace(incoming.meta, config={"imported": incoming.origin}, files={})
    store.save(directory, meta, incoming.state)
    result = ImportResult(
        tag, meta.step, incoming.origin, sum(tensor.numel() for tensor in incoming.state.values())
    )
    say(f"{config.path} ({incoming.origin}) → the run {tag}, {amount(result.parameters)} parameters")
    say(f"try it: `nanochat chat --model {tag}` or `nanochat eval base --model-tag {tag} --dataset builtin`")
    return result
