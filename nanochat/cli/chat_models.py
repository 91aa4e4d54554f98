"""The models of the terminal chat: `RUN` or `RUN@STEP` to an engine."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nanochat.checkpoint import store
from nanochat.checkpoint.loading import load_model
from nanochat.infer.engine import Engine
from nanochat.infer.frozen import WeightsName
from nanochat.paths import Paths
from nanochat.runtime import Runtime

_AT_STEP = re.compile(r"(.+)@(\d+)")


@dataclass(frozen=True)
class Speaker:
    """A model that answers."""

    model_tag: str
    step: int
    engine: Engine
    weights: WeightsName = "fp32"

    @property
    def label(self) -> str:
        """The model in the form that `/model` takes."""
        return f"{self.model_tag}@{self.step}"


def split_step(model: str) -> tuple[str, int | None]:
    """(run, step or None for the newest) of `RUN` or `RUN@STEP`; an existing path is a run as a whole."""
    found = None if Path(model).exists() else _AT_STEP.fullmatch(model)
    return (found[1], int(found[2])) if found else (model, None)


def open_speaker(model: str, runtime: Runtime, weights: WeightsName = "fp32") -> Speaker:
    """Load the model `RUN` or `RUN@STEP` and make its engine. Raises as `load_model` and `Engine`."""
    run, step = split_step(model)
    loaded = load_model(run, runtime, step)
    engine = Engine(loaded.model, loaded.tokenizer, max_rows=1, weights=weights)
    return Speaker(run, loaded.step, engine, weights)


def known_models(paths: Paths) -> Iterator[tuple[str, list[int]]]:
    """(run, its steps) of every run that has a checkpoint."""
    for directory in sorted(paths.all_checkpoints.glob("*")):
        if steps := store.committed(directory):
            yield directory.name, steps
