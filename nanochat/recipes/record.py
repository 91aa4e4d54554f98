"""Which stages of a recipe have run: one small JSON file per recipe and name."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from nanochat.atomic import write_text_atomic
from nanochat.config import from_json, json_line, parse_json

State = Literal["started", "done", "outdated"]
"""An outdated stage ran on results that have been made again since."""


@dataclass(frozen=True)
class StageRecord:
    """The key of the command that a stage last ran with, and its state."""

    key: str
    state: State


@dataclass(frozen=True)
class RecordFile:
    """The contents of record.json."""

    format: Literal[1] = 1
    stages: dict[str, StageRecord] = field(default_factory=dict)


class Record:
    """The record on disk of one recipe under one name."""

    def __init__(self, path: Path):
        """Raises ValueError for a file that is not a record."""
        self._path = path
        self._file = RecordFile()
        if path.exists():
            try:
                self._file = from_json(RecordFile, parse_json(path.read_bytes()))
            except ValueError as error:
                raise ValueError(
                    f"{path} is damaged ({error}): restore it, or delete it and choose another --model-tag"
                ) from None

    def state(self, stage: str, key: str) -> State | None:
        """The state of the stage with this key; None if it never ran or last ran with another one."""
        entry = self._file.stages.get(stage)
        return entry.state if entry is not None and entry.key == key else None

    def knows(self, stage: str) -> bool:
        """Whether the stage ever ran, with any key."""
        return stage in self._file.stages

    def set(self, stage: str, key: str, state: State) -> None:
        """Write the state to disk."""
        self._write({**self._file.stages, stage: StageRecord(key, state)})

    def outdate(self, stages: Container[str]) -> None:
        """Mark those of these stages that ran, because their inputs are being made again."""
        entries = self._file.stages.items()
        self._write(
            {name: replace(entry, state="outdated") if name in stages else entry for name, entry in entries}
        )

    def _write(self, stages: dict[str, StageRecord]) -> None:
        self._file = RecordFile(stages=stages)
        write_text_atomic(self._path, json_line(self._file) + "\n")
