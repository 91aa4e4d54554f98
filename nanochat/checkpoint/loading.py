"""Load a run by name: weights, tokenizer and meta of one checkpoint."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nanochat.checkpoint import store
from nanochat.checkpoint.meta import CheckpointMeta
from nanochat.config import to_json
from nanochat.model.backend import Backend, choose_backend
from nanochat.model.cost import meta_model
from nanochat.model.gpt import GPT
from nanochat.model.gpt_config import GPTConfig
from nanochat.paths import Paths
from nanochat.runtime import Runtime
from nanochat.tokenizer.tokenizer import Tokenizer, load_tokenizer

_FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
TOKENIZER_DIR = "tokenizer"
"""A run keeps a copy of its tokenizer, so that its folder is self-contained."""


@dataclass(frozen=True)
class OpenCheckpoint:
    """A committed step of a run. `load` reads the weights."""

    tokenizer: Tokenizer
    meta: CheckpointMeta
    step: int
    directory: Path

    @property
    def config(self) -> GPTConfig:
        """The model's shape."""
        return self.meta.model

    def load(self, backend: Backend) -> GPT:
        """The model, in training mode on the backend's device. Raises ValueError if its tensors do not fit."""
        state = store.load_model_state(self.directory, self.step)
        # Compared before allocating memory of the stated sizes.
        check_weights(meta_model(self.config), state, self.directory)
        model = GPT(self.config, backend)
        model.load_state_dict(state)
        return model.to(backend.device)


@dataclass(frozen=True)
class LoadedModel:
    """A model in evaluation mode on the runtime's device."""

    model: GPT
    tokenizer: Tokenizer
    meta: CheckpointMeta
    step: int
    directory: Path


def split_step(model: str) -> tuple[str, int | None]:
    """(run, step or None for the newest) of `RUN` or `RUN@STEP`; an existing path is a run as a whole."""
    found = None if Path(model).exists() else re.fullmatch(r"(.+)@(\d+)", model)
    return (found[1], int(found[2])) if found else (model, None)


def find_run(run: str | Path, paths: Paths) -> Path:
    """The folder of a run's checkpoints, by its name or path. Raises ValueError if there is none."""
    for directory in (paths.all_checkpoints / run, Path(run)):
        if store.steps_with_meta(directory):
            return directory
    known = sorted(path.name for path in paths.all_checkpoints.glob("*") if store.steps_with_meta(path))
    hint = (
        f"there are: {', '.join(known)}"
        if known
        else "there is no model yet: `nanochat run quickstart` makes one in minutes"
    )
    raise ValueError(f"no checkpoint of a run {str(run)!r}; {hint}")


def find_model(model: str | Path, paths: Paths) -> tuple[Path, int | None]:
    """The folder of `RUN` or `RUN@STEP`, and the step or None for the newest. Raises ValueError for an unknown run."""
    run, step = split_step(str(model))
    if step is None and "@" in run and not Path(run).exists():
        raise ValueError(f"{run!r}: after @ comes the number of a step")
    return find_run(run, paths), step


def open_checkpoint(run: str | Path, runtime: Runtime, step: int | None = None) -> OpenCheckpoint:
    """A checkpoint: of `RUN@STEP` that step, of `RUN` the newest valid one unless `step` names another.

    Raises ValueError if the run or step does not exist or two are named, EnvironmentFault if it is torn.
    """
    directory, named = find_model(run, runtime.paths)
    if named is not None and step not in (None, named):
        raise ValueError(f"{run} and --step {step} name two steps: give one")
    step = step if named is None else named
    step = runtime.processes.decide(lambda: store.require_latest(directory) if step is None else step)
    meta = store.load_meta(directory, step)
    runtime.processes.same("the checkpoint", to_json(meta.files))
    return OpenCheckpoint(load_run_tokenizer(directory), meta, step, directory)


def load_model(run: str | Path, runtime: Runtime, step: int | None = None) -> LoadedModel:
    """A checkpoint's model for evaluation and chat, on this process's backend. Raises as `open_checkpoint`."""
    checkpoint = open_checkpoint(run, runtime, step)
    model = checkpoint.load(choose_backend(runtime)).eval()
    return LoadedModel(model, checkpoint.tokenizer, checkpoint.meta, checkpoint.step, checkpoint.directory)


def load_weights(model: GPT, state: dict[str, Any], source: Path) -> None:
    """Copy a state into a model. Raises as `check_weights`."""
    check_weights(model, state, source)
    model.load_state_dict(state)


def check_weights(model: GPT, state: dict[str, Any], source: Path) -> None:
    """Raise ValueError naming the first entry of `state` that is not a finite float tensor of the model's shape."""
    expected = model.state_dict()
    for name in sorted(expected.keys() | state.keys(), key=str):
        if (problem := _not_floats(state[name]) if name in state else None) is not None:
            raise ValueError(f"the checkpoint in {source} is damaged: {name} {problem}")
        ours, theirs = (tuple(s[name].shape) if name in s else "absent" for s in (expected, state))
        if ours != theirs:
            raise ValueError(
                f"the checkpoint in {source} belongs to another model: {name} is {theirs} there and {ours} here; "
                "use the settings it was trained with, or another --model-tag"
            )
        if not state[name].isfinite().all():
            raise ValueError(
                f"the checkpoint in {source} is damaged: {name} holds values that are not finite"
            )


def _not_floats(value: Any) -> str | None:
    """Why a value is not a dense float tensor on the CPU, or None if it is."""
    if not isinstance(value, Tensor):
        return f"is a {type(value).__name__}, not a tensor"
    if value.dtype not in _FLOATS:
        return f"has the type {value.dtype}, not a float type"
    if value.layout != torch.strided or value.device.type != "cpu":
        return f"is stored as {value.layout} on {value.device}, not as a plain tensor"
    return None


def load_run_tokenizer(directory: Path) -> Tokenizer:
    """The tokenizer kept beside a run's checkpoints."""
    files = sorted((directory / TOKENIZER_DIR).glob("tok*.tiktoken"))
    if len(files) != 1:
        raise ValueError(f"{directory / TOKENIZER_DIR} must hold one tokenizer but holds {len(files)}")
    return load_tokenizer(files[0])
