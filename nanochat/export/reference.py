"""Checkpoints of karpathy/nanochat: `model_NNNNNN.pt` and `meta_NNNNNN.json`, of every layout that it had.

A checkpoint states sizes, but not what the code of its time had as constants. `ERAS` has those, by the first day.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from nanochat.checkpoint.meta import check_shape
from nanochat.config import parse_json
from nanochat.console import warn
from nanochat.export.incoming import Incoming, made_up_meta_of, read_tensors
from nanochat.export.names import filled_up, renamed, turned
from nanochat.export.pickled_tokenizer import read_pickled_tokenizer
from nanochat.model.gpt_config import GPTConfig

EraName = Literal["2025-10-13", "2026-01-11", "2026-01-16", "2026-03-02", "2026-03-09", "2026-03-14"]

_TILE = 128
_MODEL = re.compile(r"model_(\d+)\.pt")
_STAGES = {"base_checkpoints": "pretrain", "chatsft_checkpoints": "sft", "chatrl_checkpoints": "sft"}


def _tiled(parts: int) -> Callable[[int], int]:
    return lambda context: -(-context // (parts * _TILE)) * _TILE


@dataclass(frozen=True)
class Era:
    """Constants of the reference's code from a day on."""

    rope_base: float = 100_000.0
    qk_gain: float = 1.0
    softcap: float = 15.0
    residual_scales: bool = True
    value_embeddings: bool = True
    gate_channels: int = 12
    gate_scale: float = 3.0
    late_parts: bool = False
    """Smear over 24 channels, and backout of the stream after block n_layer // 2."""
    short: Callable[[int], int] = lambda context: context // 2
    """The tokens before its own that an S layer sees, of a context: our windows count its own."""


_JANUARY = {"rope_base": 10_000.0, "gate_channels": 32, "gate_scale": 2.0}
ERAS: dict[EraName, Era] = {
    "2025-10-13": Era(10_000.0, residual_scales=False, value_embeddings=False),
    "2026-01-11": Era(10_000.0, value_embeddings=False),
    "2026-01-16": Era(**_JANUARY),  # type: ignore[arg-type]
    "2026-03-02": Era(**_JANUARY, softcap=20.0),  # type: ignore[arg-type]
    "2026-03-09": Era(qk_gain=1.15, short=_tiled(3)),
    "2026-03-14": Era(qk_gain=1.2, short=_tiled(4), late_parts=True),
}


def is_reference(directory: Path) -> bool:
    """Whether a folder holds checkpoints of the reference."""
    return bool(_steps(directory))


def _steps(directory: Path) -> list[int]:
    found = (_MODEL.fullmatch(path.name) for path in directory.glob("model_*.pt"))
    return sorted(int(match[1]) for match in found if match)


def era_of(state: Mapping[str, Tensor]) -> EraName:
    """The era whose tensors these are; where two have the same, the longer one."""
    if "smear_lambda" in state:
        return "2026-03-14"
    gates = [tensor.size(-1) for name, tensor in state.items() if name.endswith("ve_gate.weight")]
    if gates:
        return "2026-03-09" if gates[0] == ERAS["2026-03-09"].gate_channels else "2026-01-16"
    return "2026-01-11" if "resid_lambdas" in state else "2025-10-13"


def shape_of(sizes: Mapping[str, Any], era: Era) -> GPTConfig:
    """Our shape for the `model_config` of a meta. Raises ValueError for one that lacks a size."""
    try:
        context, layers, heads = sizes["sequence_len"], sizes["n_layer"], sizes["n_head"]
        return GPTConfig(
            max_seq_len=context,
            vocab_size=sizes["vocab_size"],
            n_layer=layers,
            n_head=heads,
            n_kv_head=sizes["n_kv_head"],
            head_dim=sizes["n_embd"] // heads,
            n_embd=sizes["n_embd"],
            window_pattern=sizes.get("window_pattern", "L").upper(),
            short_window=era.short(context) + 1,
            rope_base=era.rope_base,
            qk_gain=era.qk_gain,
            softcap=era.softcap,
            value_embeddings=era.value_embeddings,
            gate_channels=era.gate_channels,
            gate_scale=era.gate_scale,
            residual_scales=era.residual_scales,
            smear=era.late_parts,
            smear_channels=24,
            backout=era.late_parts,
            backout_layer=layers // 2 + 1 if era.late_parts else None,
        )
    except (KeyError, TypeError, AttributeError, ZeroDivisionError) as error:
        raise ValueError(f"its model_config is not complete ({error!r})") from None


def read_reference(
    directory: Path, step: int | None, tokenizer_file: Path | None, era: EraName | None
) -> Incoming:
    """A checkpoint of the reference, the newest by default. Raises ValueError for files that do not fit together."""
    steps = _steps(directory)
    step = steps[-1] if step is None else step
    if step not in steps:
        raise ValueError(f"no checkpoint of step {step} in {directory}: it has {', '.join(map(str, steps))}")
    state = read_tensors(directory / f"model_{step:06d}.pt")
    state = {name.removeprefix("_orig_mod."): tensor.float() for name, tensor in state.items()}
    found = era or era_of(state)
    if era is None and found == "2026-01-16":
        warn(
            "checkpoints trained from 2026-03-02 to 2026-03-08 look the same but have another softcap: for one of "
            "those add --era 2026-03-02"
        )
    meta_file = directory / f"meta_{step:06d}.json"
    table = parse_json(_bytes_of(meta_file))
    sizes = table.get("model_config") if isinstance(table, dict) else None
    if not isinstance(sizes, dict):
        raise ValueError(f"{meta_file} has no model_config")
    config = shape_of(sizes, ERAS[found])
    check_shape(config)
    tokenizer = read_pickled_tokenizer(tokenizer_file or _tokenizer_beside(directory))
    own = filled_up(turned(renamed(state, "reference", "ours"), config.head_dim), config)
    stage = _STAGES.get(directory.resolve().parent.name, "pretrain")
    return Incoming(
        made_up_meta_of(config, tokenizer, stage, step), own, tokenizer, f"the reference's layout of {found}"
    )


def _bytes_of(path: Path) -> bytes:
    if not path.is_file():
        raise ValueError(f"{path} is missing")
    return path.read_bytes()


def _tokenizer_beside(directory: Path) -> Path:
    """Where the reference keeps it: two folders above, in `tokenizer/`."""
    places = (directory, directory / "tokenizer", directory.resolve().parent.parent / "tokenizer")
    found = [place / "tokenizer.pkl" for place in places if (place / "tokenizer.pkl").is_file()]
    if not found:
        raise ValueError(f"no tokenizer.pkl beside {directory}: name it with --tokenizer-file")
    return found[0]
