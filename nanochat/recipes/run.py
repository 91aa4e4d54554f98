"""`nanochat run RECIPE`: a whole pipeline in one command; the same command resumes it after an interruption."""

from __future__ import annotations

import shlex
import time
from dataclasses import dataclass
from typing import Annotated

import tyro

from nanochat.bounds import require_positive
from nanochat.console import duration, say, table
from nanochat.paths import Paths
from nanochat.recipes.changes import check_changes, with_changes
from nanochat.recipes.cpu import CPU
from nanochat.recipes.obstacles import obstacle
from nanochat.recipes.quickstart import QUICKSTART
from nanochat.recipes.recipe import ModelNames, Recipe, names_for, program
from nanochat.recipes.runner import Runner, StageResult
from nanochat.recipes.speedrun import SPEEDRUN

RECIPES: dict[str, Recipe] = {recipe.name: recipe for recipe in (QUICKSTART, CPU, SPEEDRUN)}


@dataclass(frozen=True)
class RunConfig:
    """Run a recipe; without one, list them."""

    recipe: Annotated[str | None, tyro.conf.Positional] = None
    """quickstart, cpu or speedrun"""
    model_tag: str | None = None
    """Name the models NAME and NAME-sft; default: baserun and sft."""
    depth: int | None = None
    """Depth of the model; default: the recipe's own."""
    nproc: int = 1
    """Processes of the training and evaluation stages, one per GPU."""
    set: tuple[str, ...] = ()
    """Change flags, as STAGE.FLAG=VALUE (--set pretrain.fp8=false sft.epochs=2); dependent stages run again."""
    dry_run: bool = False
    """Only show the stages and which of them are done."""

    def __post_init__(self) -> None:
        require_positive(self, "depth", "nproc")


@dataclass(frozen=True)
class RunResult:
    """How every stage ended, and its time in this call."""

    recipe: str | None
    stages: tuple[StageResult, ...] = ()


def run(config: RunConfig, paths: Paths) -> RunResult:
    """Run a recipe's unfinished stages, and say how to continue.

    Raises ValueError for an unknown recipe, stage or flag, for what this machine cannot run, and if the recipe did not
    make existing models of these names; exits with the status of a failed stage.
    """
    if config.recipe is None:
        table("recipes (nanochat run NAME)", ("name", "makes"), [(r.name, r.about) for r in RECIPES.values()])
        return RunResult(None)
    if config.recipe not in RECIPES:
        raise ValueError(f"unknown recipe {config.recipe!r}: choose from {', '.join(RECIPES)}")
    recipe, names = RECIPES[config.recipe], names_for(config.model_tag)
    stages = with_changes(recipe.stages(names, config.depth), config.set)
    check_changes(stages, config.set)
    runner = Runner(stages, paths, paths.recipe(recipe.name, names.base), processes=config.nproc)
    done = runner.up_to_date()
    problem = runner.conflict() or obstacle([stage for stage in stages if not done[stage.name]], config.nproc)
    if config.dry_run:
        rows = [(stage.name, "done" if done[stage.name] else "to do", stage.command) for stage in stages]
        table(f"{recipe.name}: {recipe.about}", ("stage", "state", "command"), rows)
        if problem is not None:
            say(f"it would not run: {problem}")
        return RunResult(recipe.name)
    if problem is not None:
        raise ValueError(problem)
    began = time.monotonic()
    results = runner.run()
    rows = [
        (result.name, "done before", "")
        if result.status == "skipped"
        else (result.name, result.status, duration(result.wall_s))
        for result in results
    ]
    total = ("all", "", duration(time.monotonic() - began))
    table(f"run {recipe.name}", ("stage", "", "time"), [*rows, total])
    complete = len(results) == len(stages)
    _conclude(recipe, names, results, complete=complete, again=_again(config), paths=paths)
    return RunResult(recipe.name, tuple(results))


def _conclude(
    recipe: Recipe, names: ModelNames, results: list[StageResult], *, complete: bool, again: str, paths: Paths
) -> None:
    """Say how the recipe ended and how to continue; exit with a failed stage's status."""
    failed = next((result for result in results if result.status == "failed"), None)
    if failed is not None:
        status = failed.exit_status
        say(
            f"{failed.name} failed (exit status {status}), see above; once that is fixed, continue with: {again}"
        )
        raise SystemExit(status)
    if not complete or any(result.status == "interrupted" for result in results):
        say(f"stopped; finished stages and checkpoints are kept, continue with: {again}")
        return
    recipe.closing(paths, names)


def _again(config: RunConfig) -> str:
    options = {"--model-tag": config.model_tag, "--depth": config.depth}
    words = [f"{flag}={value}" for flag, value in options.items() if value is not None]
    words += [f"--nproc={config.nproc}"] if config.nproc > 1 else []
    words += ["--set", *config.set] if config.set else []
    return shlex.join([program(), "run", str(config.recipe), *words])
