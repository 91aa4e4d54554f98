"""The location of every artefact. Nothing is created here."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

BASE_RUN = "baserun"
CHAT_RUN = "sft"
RL_RUN = "rl"
"""The runs of pretraining, fine-tuning and reinforcement, unless a flag names another."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_TAKEN = ("recipe", "tokenizer")
"""In `runs/` for the metrics of recipes and tokenizers."""


def _checked(name: str, what: str) -> str:
    """`name`, if it is a plain folder name. Raises ValueError otherwise."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"{what} {name!r} is not a valid folder name: use letters, digits, '.', '_' and '-'")
    return name


def is_run(name: str) -> bool:
    """Whether a training run may have this name."""
    return _NAME.fullmatch(name) is not None and name not in _TAKEN


@dataclass(frozen=True)
class Paths:
    """The location of every artefact below one base directory, but for a user's own task data."""

    base: Path
    own_task_data: Path | None = None

    def data(self, dataset: str) -> Path:
        """The parquet shards of a dataset."""
        return self.base / "data" / _checked(dataset, "dataset")

    def tokens(self, dataset: str, tokenizer_hash: str) -> Path:
        """The token cache of a dataset under one tokenizer; safe to delete."""
        return self.base / "tokens" / f"{_checked(dataset, 'dataset')}-{tokenizer_hash}"

    @property
    def tokenizers(self) -> Path:
        """The tokenizers of the first hub dataset, and one folder for each other dataset."""
        return self.base / "tokenizers"

    def tokenizers_of(self, dataset: str) -> Path:
        """The tokenizers of one other dataset."""
        return self.tokenizers / _checked(dataset, "dataset")

    @property
    def all_checkpoints(self) -> Path:
        """The folder that holds one folder of checkpoints for each run."""
        return self.base / "checkpoints"

    def checkpoints(self, run: str) -> Path:
        """The checkpoints of a run. Raises ValueError for a name that is taken."""
        if run in _TAKEN:
            raise ValueError(f"the run name {run!r} is taken: choose another --model-tag")
        return self.all_checkpoints / _checked(run, "run")

    def metrics(self, run: str) -> Path:
        """The metrics file of a run."""
        return self.base / "runs" / _checked(run, "run") / "metrics.jsonl"

    def lock(self, run: str) -> Path:
        """The file that the process training a run keeps locked."""
        return self.base / "locks" / f"{_checked(run, 'run')}.lock"

    def rollouts(self, run: str) -> Path:
        """The samples that a run of reinforcement learned from, one prompt a line."""
        return self.metrics(run).with_name("rollouts.jsonl")

    def recipe(self, recipe: str, model_tag: str) -> Path:
        """What a recipe keeps about the models that it makes under one name: its record, and logs."""
        name = f"{_checked(recipe, 'recipe')}-{_checked(model_tag, 'run')}"
        return self.base / "runs" / "recipe" / name

    @property
    def eval_bundle(self) -> Path:
        """The unpacked CORE evaluation bundle."""
        return self.base / "eval_bundle"

    def own_bundle(self, sha256: str) -> Path:
        """The unpacked archive of a user's own CORE bundle; safe to delete."""
        return self.base / "bundles" / sha256[:16]

    @property
    def task_data(self) -> Path:
        """Copies of hub datasets for tasks and mixtures."""
        return self.own_task_data or self.base / "task_data"

    @property
    def identity(self) -> Path:
        """Identity conversations of the user, in place of the builtin ones."""
        return self.base / "identity_conversations.jsonl"

    @property
    def persona(self) -> Path:
        """The persona of the user's identity conversations."""
        return self.base / "identity_persona.json"

    @property
    def code_cache(self) -> Path:
        """Code compiled for this machine; safe to delete."""
        return self.base / "code_cache"

    @property
    def chats(self) -> Path:
        """The terminal chat's own folder: saved conversations and the history of typed lines."""
        return self.base / "chats"

    def chat(self, name: str) -> Path:
        """A saved conversation."""
        return self.chats / f"{_checked(name, 'chat')}.jsonl"

    @property
    def chat_history(self) -> Path:
        """The lines typed in the terminal chat."""
        return self.chats / "history"

    @property
    def report(self) -> Path:
        """The report and its plots."""
        return self.base / "report"


def kept_results(directory: Path, step: int) -> Path:
    """The evaluations' results beside a checkpoint, wherever it is: one file a task; safe to delete."""
    return directory / "eval" / f"step_{step:06d}"


def expanded(path: str | Path) -> Path:
    """`path` with `~` or `~user` at its beginning replaced; as it is if there is no such user."""
    return Path(os.path.expanduser(path))


def default_paths() -> Paths:
    """Below `NANOCHAT_BASE_DIR`, or `~/.cache/nanochat` where that is unset or empty."""
    base = os.environ.get("NANOCHAT_BASE_DIR") or "~/.cache/nanochat"
    return Paths(expanded(base).absolute())
