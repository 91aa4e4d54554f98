"""Recipes and their stages: a function from model names and depth to a list of commands."""

from __future__ import annotations

import hashlib
import json
import shlex
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nanochat.console import say
from nanochat.paths import BASE_RUN, CHAT_RUN, Paths

Flags = Mapping[str, str]
"""The flags of a command, without dashes; a switch has the value ""."""


def _nothing(flags: Flags, paths: Paths) -> bool:
    return True


@dataclass(frozen=True)
class Stage:
    """One command of a recipe.

    `argv` is what follows `nanochat` on the command line, flags as `--name=value`. `needs` names earlier stages
    whose results this one reads: when they change, it runs again. `copies` lists flags copied from an earlier stage
    ("vocab-size=tokenizer.vocab-size"). `left` says, from the flags, whether all results of the stage exist.
    A stage that `trains` makes the run named by its `--model-tag`. A `background` stage runs in parallel with the
    following ones until one of them needs it; a `distributed` one uses all the recipe's processes.
    """

    name: str
    argv: tuple[str, ...]
    needs: tuple[str, ...] = ()
    copies: tuple[str, ...] = ()
    left: Callable[[Flags, Paths], bool] = _nothing
    trains: bool = False
    background: bool = False
    distributed: bool = False
    module: str = "nanochat"

    @property
    def command(self) -> str:
        """The command line to type for it."""
        program = ["nanochat"] if self.module == "nanochat" else ["python", "-m", self.module]
        return shlex.join([*program, *self.argv])

    @property
    def flags(self) -> dict[str, str]:
        """The flags of `argv`."""
        pairs = (word.removeprefix("--").partition("=") for word in self.argv if word.startswith("--"))
        return {name: value for name, _, value in pairs}

    @property
    def run(self) -> str | None:
        """The model tag of the stage's training run, or None if it does not train."""
        return self.flags["model-tag"] if self.trains else None

    def complete(self, paths: Paths) -> bool:
        """Whether all results of the stage exist."""
        return self.left(self.flags, paths)


@dataclass(frozen=True)
class ModelNames:
    """The model tags of a recipe's two models."""

    base: str = BASE_RUN
    chat: str = CHAT_RUN


def names_for(model_tag: str | None) -> ModelNames:
    """The names of the models: NAME and NAME-sft, or without a name the defaults of the verbs."""
    return ModelNames() if model_tag is None else ModelNames(model_tag, f"{model_tag}-sft")


@dataclass(frozen=True)
class Recipe:
    """A pipeline. `stages` gives its commands for the names and the depth (None: the recipe's own); `closing` prints
    where the results are, and starts no process."""

    name: str
    about: str
    stages: Callable[[ModelNames, int | None], tuple[Stage, ...]]
    closing: Callable[[Paths, ModelNames], None]


def stage_keys(stages: Sequence[Stage]) -> dict[str, str]:
    """A hash of each stage's command and of those of all stages that it depends on."""
    keys: dict[str, str] = {}
    for stage in stages:
        material = json.dumps([stage.module, stage.argv, [keys[name] for name in stage.needs]])
        keys[stage.name] = hashlib.sha256(material.encode()).hexdigest()[:16]
    return keys


def dependents(stages: Sequence[Stage], name: str) -> set[str]:
    """Every stage that depends on the named one, directly or indirectly."""
    found = {name}
    for stage in stages:
        if found.intersection(stage.needs):
            found.add(stage.name)
    return found - {name}


def program() -> str:
    """How to call this program from the user's shell: by name, or by path if it is not on the PATH."""
    return "nanochat" if shutil.which("nanochat") else str(Path(sys.executable).with_name("nanochat"))


def tell_where(paths: Paths, names: ModelNames) -> None:
    """Print where a recipe's report and chat model are."""
    which = "" if names == ModelNames() else f" --model-tag {names.chat}"
    say(f"report:     {paths.report / 'report.html'} (also as report.md)")
    say(f"checkpoint: {paths.checkpoints(names.chat)}")
    say(f"chat:       {program()} chat{which}")
