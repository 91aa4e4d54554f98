"""What a recipe is: stages, the command of each, and how to tell whether its result is already there."""

from __future__ import annotations

import hashlib
import json
import shlex
import shutil
import sys
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from nanochat.atomic import write_text_atomic
from nanochat.config import parse_json
from nanochat.console import say
from nanochat.metrics import read_metrics
from nanochat.metrics_rows import DoneRow, TrainRow
from nanochat.paths import Paths

STARTED, DONE = "started", "done"


@dataclass(frozen=True)
class Stage:
    """One command of a recipe.

    `argv` is what follows `nanochat` on the command line, flags as `--name=value`. `needs` names earlier stages
    whose results this one reads: when they change, it is done again. `files` must exist, below the base
    directory, for the stage to count as done. `run` names the training run that the stage makes: it is done
    when that run has ended and its checkpoint is there. A `background` stage runs beside the following ones
    until one of them needs it; a `distributed` one uses all the processes that the recipe was given.
    """

    name: str
    argv: tuple[str, ...]
    needs: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    run: str | None = None
    background: bool = False
    distributed: bool = False
    module: str = "nanochat"

    @property
    def command(self) -> str:
        """The command line that a person would type for it."""
        program = ["nanochat"] if self.module == "nanochat" else ["python", "-m", self.module]
        return shlex.join([*program, *self.argv])

    def complete(self, paths: Paths) -> bool:
        """Whether everything that the stage leaves behind is there."""
        present = all((paths.base / name).exists() for name in self.files)
        return present and (self.run is None or training_ended(paths, self.run))


@dataclass(frozen=True)
class Recipe:
    """A named list of stages; `closing` tells the person what they have now (it starts no process)."""

    name: str
    about: str
    stages: tuple[Stage, ...]
    closing: Callable[[Paths], None]


def training_ended(paths: Paths, run: str) -> bool:
    """Whether the training run came to its last step and that step's checkpoint is there."""
    rows = read_metrics(paths.metrics(run))
    train = [(entry.stage, entry.row) for entry in rows if isinstance(entry.row, TrainRow)]
    if not train:
        return False
    stage, last = train[-1]
    ends = [entry.row.step for entry in rows if isinstance(entry.row, DoneRow) and entry.stage == stage]
    if not ends or ends[-1] is None or ends[-1] < last.total_steps:
        return False
    return (paths.checkpoints(run) / f"step_{ends[-1]:06d}_meta.pt").exists()


def stage_keys(stages: Sequence[Stage]) -> dict[str, str]:
    """A fingerprint of each stage's command and of everything that it builds upon."""
    keys: dict[str, str] = {}
    for stage in stages:
        material = json.dumps([stage.module, stage.argv, [keys[name] for name in stage.needs]])
        keys[stage.name] = hashlib.sha256(material.encode()).hexdigest()[:16]
    return keys


def dependents(stages: Sequence[Stage], name: str) -> set[str]:
    """Every stage that builds upon the named one, directly or through others."""
    found = {name}
    for stage in stages:
        if found.intersection(stage.needs):
            found.add(stage.name)
    return found - {name}


def with_changes(stages: Iterable[Stage], changes: Sequence[str]) -> tuple[Stage, ...]:
    """The stages with flags changed by `STAGE.FLAG=VALUE` (or `STAGE.FLAG` for one without a value).

    Raises ValueError for a change that names no stage.
    """
    changed = {stage.name: stage for stage in stages}
    for change in changes:
        target, _, value = change.partition("=")
        name, dot, flag = target.partition(".")
        if name not in changed or not dot or not flag:
            known = ", ".join(changed)
            raise ValueError(f"--set {change}: write STAGE.FLAG=VALUE, where STAGE is one of {known}")
        option = f"--{flag}={value}" if "=" in change else f"--{flag}"
        stage = changed[name]
        kept = tuple(word for word in stage.argv if word.split("=")[0] != f"--{flag}")
        changed[name] = replace(stage, argv=(*kept, option))
    return tuple(changed.values())


class Record:
    """Which stages were started and done, with which key: one small JSON file below the base directory."""

    def __init__(self, path: Path):
        self._path = path
        self._entries: dict[str, dict[str, str]] = {}
        if path.exists():
            try:
                self._entries = parse_json(path.read_text(encoding="utf-8"))
            except ValueError:
                raise ValueError(f"{path} is damaged; remove it, and the recipe begins anew") from None

    def state(self, stage: str, key: str) -> str | None:
        """STARTED or DONE for this very key; None when the stage never ran or ran with another one."""
        entry = self._entries.get(stage, {})
        return entry.get("state") if entry.get("key") == key else None

    def set(self, stage: str, key: str, state: str) -> None:
        """Remember the state on disk."""
        self._entries[stage] = {"key": key, "state": state}
        self._write()

    def forget(self, stages: Container[str]) -> None:
        """Drop what is known of these stages: what they built upon is made anew."""
        self._entries = {name: entry for name, entry in self._entries.items() if name not in stages}
        self._write()

    def _write(self) -> None:
        write_text_atomic(self._path, json.dumps(self._entries, indent=1) + "\n")


def program() -> str:
    """How this program is called from the person's shell: by its name, or by its path where that is not found."""
    return "nanochat" if shutil.which("nanochat") else str(Path(sys.executable).with_name("nanochat"))


def tell_where(paths: Paths) -> None:
    """The closing words of a recipe that ends with a chat model."""
    say(f"report:     {paths.report / 'report.html'} (and report.md beside it)")
    say(f"checkpoint: {paths.checkpoints('sft')}")
    say(f"talk to it: {program()} chat")
