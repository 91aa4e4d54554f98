"""The models of the terminal chat: `RUN` or `RUN@STEP` to an engine."""

from collections.abc import Iterator
from dataclasses import dataclass
from shlex import quote

from nanochat.checkpoint import store
from nanochat.checkpoint.loading import load_model, split_step
from nanochat.console import warn
from nanochat.export.hub_models import local_run
from nanochat.infer.engine import Engine
from nanochat.infer.frozen import WeightsName
from nanochat.paths import Paths
from nanochat.runtime import Runtime


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


def open_speaker(model: str, runtime: Runtime, weights: WeightsName = "fp32") -> Speaker:
    """Load the model `RUN`, `RUN@STEP` or `hf:OWNER/NAME` and make its engine; warns of a base model.

    Raises as `local_run`, `load_model` and `Engine`.
    """
    model = local_run(model, runtime.paths)
    run, step = split_step(model)
    loaded = load_model(run, runtime, step)
    if loaded.meta.is_base:
        warn(
            f"{model} is a base model: it continues text and was not trained to answer; "
            f"fine-tune it with nanochat sft --from-tag {quote(model)}"
        )
    engine = Engine(loaded.model, loaded.tokenizer, max_rows=1, weights=weights)
    return Speaker(run, loaded.step, engine, weights)


def known_models(paths: Paths) -> Iterator[tuple[str, list[int]]]:
    """(run, its steps) of every run that has a checkpoint, torn ones left out."""
    for directory in sorted(paths.all_checkpoints.glob("*")):
        if steps := store.whole_steps(directory):
            yield directory.name, steps
