"""From a run's name to a model that can be used: weights, tokenizer and meta of one checkpoint."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanochat.checkpoint import store
from nanochat.config import from_json
from nanochat.errors import EnvironmentFault
from nanochat.model.backend import Backend, choose_backend
from nanochat.model.gpt import GPT
from nanochat.model.gpt_config import GPTConfig
from nanochat.runtime import Runtime
from nanochat.tokenizer.tokenizer import Tokenizer, load_tokenizer

TOKENIZER_DIR = "tokenizer"
"""A run keeps its own copy of its tokenizer, so that a checkpoint's folder is whole."""


@dataclass(frozen=True)
class OpenCheckpoint:
    """A committed step of a run: all but its weights, which `load` reads."""

    tokenizer: Tokenizer
    meta: dict[str, Any]
    step: int
    directory: Path

    @property
    def config(self) -> GPTConfig:
        """The model's shape."""
        return from_json(GPTConfig, self.meta["model"])

    def load(self, backend: Backend) -> GPT:
        """The model, in training mode on the backend's device. Raises ValueError when its tensors do not fit."""
        model = GPT(self.config, backend)
        load_weights(model, store.load_model_state(self.directory, self.step), self.directory)
        return model.to(backend.device)


@dataclass(frozen=True)
class LoadedModel:
    """A model in evaluation mode on the runtime's device."""

    model: GPT
    tokenizer: Tokenizer
    meta: dict[str, Any]
    step: int
    directory: Path


def find_run(run: str | Path, runtime: Runtime) -> Path:
    """The folder of a run's checkpoints, by its name or path. Raises ValueError when there is none."""
    for directory in (runtime.paths.all_checkpoints / run, Path(run)):
        if store.committed(directory):
            return directory
    known = sorted(path.name for path in runtime.paths.all_checkpoints.glob("*") if store.committed(path))
    hint = (
        f"there are: {', '.join(known)}"
        if known
        else "train one first: `nanochat pretrain`, then `nanochat sft`"
    )
    raise ValueError(f"no checkpoint of a run {str(run)!r}; {hint}")


def open_checkpoint(run: str | Path, runtime: Runtime, step: int | None = None) -> OpenCheckpoint:
    """A checkpoint of a run, the newest valid step by default.

    Raises ValueError for a run or step that is not there, EnvironmentFault for a torn one.
    """
    directory = find_run(run, runtime)
    step = step if step is not None else store.latest(directory)
    if step is None:
        raise EnvironmentFault(f"every checkpoint in {directory} is torn: restore the files, or train again")
    return OpenCheckpoint(load_run_tokenizer(directory), store.load_meta(directory, step), step, directory)


def load_model(run: str | Path, runtime: Runtime, step: int | None = None) -> LoadedModel:
    """A checkpoint's model for evaluation and chat, on this process's backend; raises as `open_checkpoint`."""
    checkpoint = open_checkpoint(run, runtime, step)
    model = checkpoint.load(choose_backend(runtime)).eval()
    return LoadedModel(model, checkpoint.tokenizer, checkpoint.meta, checkpoint.step, checkpoint.directory)


def load_weights(model: GPT, state: dict[str, Any], source: Path) -> None:
    """Copy a state into a model. Raises ValueError naming the first tensor that does not fit."""
    expected = model.state_dict()
    for name in sorted(expected.keys() | state.keys()):
        ours, theirs = (tuple(s[name].shape) if name in s else "absent" for s in (expected, state))
        if ours != theirs:
            raise ValueError(
                f"the checkpoint in {source} is of another model: {name} is {theirs} there and {ours} here; "
                "use the settings it was trained with, or another --model-tag"
            )
    model.load_state_dict(state)


def load_run_tokenizer(directory: Path) -> Tokenizer:
    """The tokenizer kept beside a run's checkpoints."""
    files = sorted((directory / TOKENIZER_DIR).glob("tok*.tiktoken"))
    if len(files) != 1:
        raise ValueError(f"{directory / TOKENIZER_DIR} must hold one tokenizer, it holds {len(files)}")
    return load_tokenizer(files[0])
