"""A model from elsewhere, read and checked, before it becomes a run of ours."""

import textwrap
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nanochat.checkpoint.meta import CheckpointMeta, Progress, TrainingPlan
from nanochat.errors import first_line
from nanochat.model.gpt_config import GPTConfig
from nanochat.scaling import Dial, make_plan
from nanochat.tokenizer.tokenizer import Tokenizer

_SEED = 42


@dataclass(frozen=True)
class Incoming:
    """A model under our names and in our layout."""

    meta: CheckpointMeta
    state: dict[str, Tensor]
    tokenizer: Tokenizer
    origin: str
    """What it was, for the reader."""


def made_up_meta_of(config: GPTConfig, tokenizer: Tokenizer, stage: str, step: int) -> CheckpointMeta:
    """The meta of a finished run whose plan is not known: the dial's rates for its depth, for fine-tuning it."""
    dial = Dial(config.n_layer, max_seq_len=config.max_seq_len, head_dim=config.head_dim)
    planned = make_plan(dial, config.vocab_size, "cuda")
    plan = TrainingPlan(
        schedule=replace(planned.schedule, total_steps=max(1, step), warmup_steps=0),
        rates=planned.rates,
        muon_per_head=planned.muon_per_head,
        batch_tokens=planned.batch_tokens,
        device_batch_size=planned.device_batch_size,
        seed=_SEED,
    )
    return CheckpointMeta(stage, config, tokenizer.hash, plan, Progress(max(1, step)))


def read_tensors(path: Path) -> dict[str, Tensor]:
    """A table of tensors in torch's format. Raises ValueError, in one line, for anything else in the file.

    Raises OSError for a file that cannot be opened.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            table: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged or hostile pickle can raise any exception
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise ValueError(f"{path} is damaged, or no checkpoint of PyTorch") from error
    if not isinstance(table, dict) or not all(isinstance(value, Tensor) for value in table.values()):
        raise ValueError(f"{path} holds something else than a table of tensors")
    return table


def one_line(error: BaseException) -> str:
    """The first line of another library's error, with its type, which often says more than the message."""
    return textwrap.shorten(f"{type(error).__name__}: {first_line(error)}", 200, placeholder=" …")
