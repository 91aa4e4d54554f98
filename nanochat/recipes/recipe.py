"""What a recipe is: a function of the models' names and of the dial that gives stages, each one command."""

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
from nanochat.paths import Paths

Flags = Mapping[str, str]
"""The flags of a command, without dashes; a switch has the value ""."""


def _nothing(flags: Flags, paths: Paths) -> bool:
    return True


@dataclass(frozen=True)
class Stage:
    """One command of a recipe.

    `argv` is what follows `nanochat` on the command line, flags as `--name=value`. `needs` names earlier stages
    whose results this one reads: when they change, it runs again. `copies` holds flags that follow an earlier stage's
    ("vocab-size=tokenizer.vocab-size"). `left` tells by the flags whether everything that the stage leaves is there.
    A stage that `trains` makes the run that its `--model-tag` names. A `background` stage runs beside the following
    ones until one of them needs it; a `distributed` one uses all the processes that the recipe was given.
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
        """The command line that a person would type for it."""
        program = ["nanochat"] if self.module == "nanochat" else ["python", "-m", self.module]
        return shlex.join([*program, *self.argv])

    @property
    def flags(self) -> dict[str, str]:
        """The flags of `argv`."""
        pairs = (word.removeprefix("--").partition("=") for word in self.argv if word.startswith("--"))
        return {name: value for name, _, value in pairs}

    @property
    def run(self) -> str | None:
        """The training run that the stage makes, if it trains."""
        return self.flags["model-tag"] if self.trains else None

    def complete(self, paths: Paths) -> bool:
        """Whether everything that the stage leaves is there."""
        return self.left(self.flags, paths)


@dataclass(frozen=True)
class ModelNames:
    """The model tags of the two models that a recipe makes."""

    base: str = "baserun"
    chat: str = "sft"


def names_for(model_tag: str | None) -> ModelNames:
    """The names of the models: those of the verbs' own defaults, or NAME and NAME-sft."""
    return ModelNames() if model_tag is None else ModelNames(model_tag, f"{model_tag}-sft")


@dataclass(frozen=True)
class Recipe:
    """A pipeline. `stages` gives its commands for the names and the depth (None: the recipe's own); `closing` tells
    the person what they have now, and starts no process."""

    name: str
    about: str
    stages: Callable[[ModelNames, int | None], tuple[Stage, ...]]
    closing: Callable[[Paths, ModelNames], None]


def stage_keys(stages: Sequence[Stage]) -> dict[str, str]:
    """A fingerprint of each stage's command and of everything that it builds on."""
    keys: dict[str, str] = {}
    for stage in stages:
        material = json.dumps([stage.module, stage.argv, [keys[name] for name in stage.needs]])
        keys[stage.name] = hashlib.sha256(material.encode()).hexdigest()[:16]
    return keys


def dependents(stages: Sequence[Stage], name: str) -> set[str]:
    """Every stage that builds on the named one, directly or through others."""
    found = {name}
    for stage in stages:
        if found.intersection(stage.needs):
            found.add(stage.name)
    return found - {name}


def program() -> str:
    """How to call this program from the person's shell: by its name, or by its path if the name is not found."""
    return "nanochat" if shutil.which("nanochat") else str(Path(sys.executable).with_name("nanochat"))


def tell_where(paths: Paths, names: ModelNames) -> None:
    """The closing words of a recipe that ends with a chat model."""
    which = "" if names == ModelNames() else f" --model-tag {names.chat}"
    say(f"report:     {paths.report / 'report.html'} (also as report.md)")
    say(f"checkpoint: {paths.checkpoints(names.chat)}")
    say(f"chat:       {program()} chat{which}")
