"""`--set STAGE.FLAG=VALUE`: changes of the flags of a recipe's stages, checked before anything runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from nanochat.recipes.recipe import Stage


def with_changes(stages: Iterable[Stage], changes: Sequence[str]) -> tuple[Stage, ...]:
    """The stages with their flags changed and `copies` filled in.

    Args:
        changes: `STAGE.FLAG=VALUE`; `STAGE.FLAG` or `=true` turns a switch on, `=false` turns it off.

    Raises ValueError for a malformed change or an unknown stage.
    """
    changed = {stage.name: stage for stage in stages}
    for change in changes:
        name, flag, value = _parse(change, changed)
        changed[name] = _with_flag(changed[name], flag, value)
    chosen = {change.partition("=")[0] for change in changes}
    for name in changed:
        for copy in changed[name].copies:
            flag, _, source = copy.partition("=")
            earlier, _, original = source.partition(".")
            value = changed[earlier].flags.get(original)
            if value and f"{name}.{flag}" not in chosen:
                changed[name] = _with_flag(changed[name], flag, value)
    return tuple(changed.values())


def check_changes(stages: Iterable[Stage], changes: Sequence[str]) -> None:
    """Parse the commands of the changed stages. Raises ValueError for an invalid flag or value."""
    from nanochat.cli.main import parse_command

    changed = {change.partition(".")[0] for change in changes}
    for stage in stages:
        if stage.name not in changed:
            continue
        if stage.module != "nanochat":
            raise ValueError(f"--set: the stage {stage.name} takes no flags")
        try:
            parse_command(stage.argv)
        except ValueError as error:
            raise ValueError(f"--set for the stage {stage.name}: {error}") from None


def _parse(change: str, stages: dict[str, Stage]) -> tuple[str, str, str | None]:
    target, equals, value = change.partition("=")
    name, dot, flag = target.partition(".")
    if name not in stages or not dot or not flag:
        raise ValueError(f"--set {change}: write STAGE.FLAG=VALUE, where STAGE is one of {', '.join(stages)}")
    if flag == "model-tag":
        raise ValueError(f"--set {change}: name the models of a recipe with --model-tag NAME")
    if flag in _ABSOLUTE:
        value = _ABSOLUTE[flag](value)
    return name, flag, value if equals else None


def _with_flag(stage: Stage, flag: str, value: str | None) -> Stage:
    """The stage with one flag set, in place if already present; a switch that is on has the value None."""
    options = {None: f"--{flag}", "true": f"--{flag}", "false": f"--no-{flag}"}
    option = options.get(value, f"--{flag}={value}")
    plain = flag.removeprefix("no-")
    words = [
        option if word.partition("=")[0] in (f"--{plain}", f"--no-{plain}") else word for word in stage.argv
    ]
    return replace(stage, argv=tuple(words) if option in words else (*words, option))


def _absolute_dataset(spec: str) -> str:
    from nanochat.text.datasets import absolute_dataset

    return absolute_dataset(spec)


def _absolute_path(path: str) -> str:
    from nanochat.text.own_files import absolute

    return absolute(path)


def _absolute_mixture(mixture: str) -> str:
    from nanochat.conversations.mixtures import absolute_mixture

    return absolute_mixture(mixture)


# Absolute, so that a recipe's record tells apart files of the same name in different folders.
_ABSOLUTE: dict[str, Callable[[str], str]] = {
    "dataset": _absolute_dataset,
    "val-path": _absolute_path,
    "tokenizer": _absolute_path,
    "mixture": _absolute_mixture,
}
