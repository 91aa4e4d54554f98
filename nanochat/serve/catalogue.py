"""The models that can be named: every run of the base directory, RUN for its newest step and RUN@STEP for any."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from nanochat.checkpoint import store
from nanochat.checkpoint.meta import CheckpointMeta
from nanochat.errors import EnvironmentFault
from nanochat.model.cost import parameter_counts
from nanochat.paths import Paths
from nanochat.serve.faults import ApiFault

_SETTLED_NS = 2 * 10**9
"""A folder that changed more recently may change again within one tick of its file system's clock."""


@dataclass(frozen=True)
class ModelCard:
    """A checkpoint that can be served."""

    id: str
    """As listed or asked for: RUN or RUN@STEP."""
    run: str
    step: int
    steps: tuple[int, ...]
    """All steps of the run."""
    directory: Path
    meta: CheckpointMeta
    parameters: int
    created: int
    """Seconds since 1970."""

    @property
    def kind(self) -> Literal["base", "chat"]:
        """Whether it knows the chat format."""
        return "base" if self.meta.is_base else "chat"

    @property
    def checkpoint(self) -> str:
        """RUN@STEP."""
        return f"{self.run}@{self.step}"

    @property
    def weights(self) -> tuple[str, str]:
        """RUN@STEP and the sha256 of its weights: a run trained again reaches the same step with others."""
        return self.checkpoint, self.meta.files["model"].sha256

    def to_json(self, loaded: bool) -> dict[str, Any]:
        """Its entry in the list of models."""
        model = self.meta.model
        return {
            "id": self.id,
            "object": "model",
            "created": self.created,
            "owned_by": "nanochat",
            "nanochat": {
                "kind": self.kind,
                "step": self.step,
                "steps": list(self.steps),
                "context": model.max_seq_len,
                "vocab_size": model.vocab_size,
                "parameters": self.parameters,
                "loaded": loaded,
            },
        }


class Catalogue:
    """Reads the runs on every call, so that a training's new checkpoints appear; metas are kept while unchanged.

    `extra`: folders of checkpoints outside of the base directory, by the name of the run.
    """

    def __init__(self, paths: Paths, extra: Mapping[str, Path]):
        self._paths, self._extra = paths, dict(extra)
        self._metas: dict[Path, tuple[int, CheckpointMeta | None, int]] = {}
        self._found: dict[tuple[str, int | None], tuple[int, ModelCard]] = {}

    def cards(self) -> list[ModelCard]:
        """The newest step of every run, by name."""
        found = (self._card(name, directory) for name, directory in sorted(self._directories().items()))
        return [card for card in found if card is not None]

    def find(self, name: str) -> ModelCard:
        """A model by its id. Raises ApiFault for an unknown one."""
        run, step = _parsed(name)
        directory = self._directories().get(run)
        if directory is not None:
            changed = _changed(directory)
            card = self._card(run, directory, step)
            if card is not None:
                if time.time_ns() - changed > _SETTLED_NS:
                    self._found[run, step] = changed, card
                return card
        raise ApiFault(
            404,
            f"there is no model {name[:100]!r}: GET /v1/models lists them",
            param="model",
            code="model_not_found",
        )

    def recall(self, name: str) -> ModelCard | None:
        """What `find` last said, if the run's folder is as it was then: quick enough for the event loop."""
        changed, card = self._found.get(_parsed(name), (0, None))
        return card if card is not None and _changed(card.directory) == changed else None

    def _directories(self) -> dict[str, Path]:
        folders = (path for path in self._paths.all_checkpoints.glob("*") if path.is_dir())
        return {path.name: path for path in folders} | self._extra

    def _card(self, run: str, directory: Path, step: int | None = None) -> ModelCard | None:
        metas = {number: self._meta(directory, number) for number in store.steps_with_meta(directory)}
        steps = tuple(
            number
            for number, (meta, _, _) in metas.items()
            if meta is not None and store.intact(directory, number, meta)
        )
        wanted = step if step is not None else max(steps, default=None)
        if wanted is None or wanted not in steps:
            return None
        meta, parameters, modified = metas[wanted]
        assert meta is not None
        model_id = run if step is None else f"{run}@{step}"
        return ModelCard(model_id, run, wanted, steps, directory, meta, parameters, modified // 10**9)

    def _meta(self, directory: Path, step: int) -> tuple[CheckpointMeta | None, int, int]:
        """(meta or None if it is torn, number of parameters, time of the file)."""
        path = store.file_of(directory, step, "meta")
        try:
            modified = os.stat(path).st_mtime_ns
        except OSError:  # removed in this moment
            return None, 0, 0
        known = self._metas.get(path)
        if known is None or known[0] != modified:
            try:
                meta = store.load_meta(directory, step)
                known = (modified, meta, sum(parameter_counts(meta.model).values()))
            except (EnvironmentFault, ValueError):
                known = (modified, None, 0)
            self._metas[path] = known
        return known[1], known[2], known[0]


def _parsed(name: str) -> tuple[str, int | None]:
    """(run, step) of a model's id; what is no step stays a part of the run's name, which then is unknown."""
    run, at, step = name.rpartition("@")
    return (run, int(step)) if at and step.isdecimal() and len(step) < 10 else (name, None)


def _changed(directory: Path) -> int:
    """When a folder's files were last renamed, added or removed; 0 if it is gone."""
    try:
        return os.stat(directory).st_mtime_ns
    except OSError:
        return 0
