"""`nanochat run RECIPE`: a whole pipeline in one command; after a break the same command goes on."""

from __future__ import annotations

import shlex
import time
from dataclasses import dataclass
from typing import Annotated

import tyro

from nanochat.console import duration, say, table
from nanochat.paths import Paths
from nanochat.recipes.cpu import CPU
from nanochat.recipes.quickstart import QUICKSTART
from nanochat.recipes.recipe import Recipe, program, with_changes
from nanochat.recipes.runner import Runner, StageResult
from nanochat.recipes.speedrun import SPEEDRUN

RECIPES: dict[str, Recipe] = {recipe.name: recipe for recipe in (QUICKSTART, CPU, SPEEDRUN)}


@dataclass(frozen=True)
class RunConfig:
    """Which recipe, on how many processes, with which changes."""

    recipe: Annotated[str, tyro.conf.Positional]
    """quickstart, cpu or speedrun"""
    nproc: int = 1
    """processes for the training stages, one for each GPU"""
    set: tuple[str, ...] = ()
    """changed flags, as STAGE.FLAG=VALUE (--set pretrain.depth=6 sft.epochs=2); what depends on them is redone"""
    dry_run: bool = False
    """only show the stages and which of them are done"""


@dataclass(frozen=True)
class RunResult:
    """How every stage went and how long this call took for it."""

    recipe: str
    stages: tuple[StageResult, ...] = ()


def run(config: RunConfig, paths: Paths) -> RunResult:
    """Do what is left to do of a recipe and say how to go on.

    Raises ValueError for an unknown recipe, stage or number of processes; exits with the status of a stage
    that failed.
    """
    if config.recipe not in RECIPES:
        raise ValueError(f"unknown recipe {config.recipe!r} (there are: {', '.join(RECIPES)})")
    if config.nproc < 1:
        raise ValueError(f"--nproc {config.nproc}: at least one process is needed")
    recipe = RECIPES[config.recipe]
    stages = with_changes(recipe.stages, config.set)
    runner = Runner(stages, paths, processes=config.nproc)
    if config.dry_run:
        fresh = runner.up_to_date()
        rows = [(stage.name, "done" if fresh[stage.name] else "to do", stage.command) for stage in stages]
        table(recipe.about, ("stage", "state", "command"), rows)
        return RunResult(recipe.name)
    began = time.monotonic()
    results = runner.run()
    rows = [
        (result.name, "done before", "")
        if result.status == "skipped"
        else (result.name, result.status, duration(result.wall_s))
        for result in results
    ]
    table(
        f"run {recipe.name}", ("stage", "", "time"), [*rows, ("all", "", duration(time.monotonic() - began))]
    )
    _conclude(recipe, results, _again(config), paths)
    return RunResult(recipe.name, tuple(results))


def _conclude(recipe: Recipe, results: list[StageResult], again: str, paths: Paths) -> None:
    """Tell the person where things stand; a failed stage's exit status becomes our own."""
    failed = next((result for result in results if result.status == "failed"), None)
    if failed is not None:
        status = failed.exit_status
        say(f"{failed.name} failed (exit status {status}), see above; mend that and go on with: {again}")
        raise SystemExit(status)
    if len(results) < len(recipe.stages) or any(result.status == "interrupted" for result in results):
        say(f"stopped; what was done is kept, go on with: {again}")
        return
    recipe.closing(paths)


def _again(config: RunConfig) -> str:
    changes = ["--set", *config.set] if config.set else []
    processes = [f"--nproc={config.nproc}"] if config.nproc > 1 else []
    return shlex.join([program(), "run", config.recipe, *processes, *changes])
