"""Curves of the figures that stages logged."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from nanochat.metrics_rows import StepRow
from nanochat.report.artefacts import StageRows
from nanochat.report.figures import Curve

S = TypeVar("S", bound=StepRow)


def curve(
    stage: StageRows, kind: type[S], label: str, figure: Callable[[S], float | None], smooth: bool = False
) -> tuple[Curve, ...]:
    """The curve of a figure; none if it was never measured."""
    steps, values = stage.series(kind, figure)
    return (Curve(label, steps, values, smooth),) if steps else ()
