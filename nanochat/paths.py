"""Where every artefact lies. Nothing is created here."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def _checked(name: str, what: str) -> str:
    """A name that stays one folder below its parent, on every file system."""
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"{what} {name!r} is no good name for a folder: use letters, digits, '.', '_' and '-'"
        )
    return name


@dataclass(frozen=True)
class Paths:
    """Every artefact's place below one base directory."""

    base: Path

    def data(self, dataset: str) -> Path:
        """The parquet shards of a dataset."""
        return self.base / "data" / _checked(dataset, "dataset")

    def tokens(self, dataset: str, tokenizer_hash: str) -> Path:
        """The token cache of a dataset under one tokenizer; safe to delete."""
        return self.base / "tokens" / f"{_checked(dataset, 'dataset')}-{tokenizer_hash}"

    @property
    def tokenizers(self) -> Path:
        return self.base / "tokenizers"

    def tokenizer(self, vocab_size: int) -> Path:
        return self.tokenizers / f"tok{vocab_size}.tiktoken"

    @property
    def all_checkpoints(self) -> Path:
        """The folder that holds one folder of checkpoints for each run."""
        return self.base / "checkpoints"

    def checkpoints(self, run: str) -> Path:
        return self.all_checkpoints / _checked(run, "run")

    def metrics(self, run: str) -> Path:
        return self.base / "runs" / _checked(run, "run") / "metrics.jsonl"

    @property
    def eval_bundle(self) -> Path:
        return self.base / "eval_bundle"

    @property
    def task_data(self) -> Path:
        return self.base / "task_data"

    @property
    def identity(self) -> Path:
        return self.base / "identity_conversations.jsonl"

    @property
    def report(self) -> Path:
        return self.base / "report"


def default_paths() -> Paths:
    """Below `NANOCHAT_BASE_DIR`, or `~/.cache/nanochat` where that is unset or empty."""
    base = os.environ.get("NANOCHAT_BASE_DIR") or "~/.cache/nanochat"
    return Paths(Path(base).expanduser().absolute())
