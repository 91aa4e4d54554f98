"""The report's plots, each drawn once and saved as SVG (inline in html, in the page's colours) and PNG."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK = "#010203"  # replaced by the page's text colour; nothing plotted uses it
COLOURS = ("#3b82c4", "#dd7a3a", "#4f9d69", "#a06cc4", "#c24d5a")
LABEL_CHARS = 48  # longer names are cut
MARKED_POINTS = 25  # curves with fewer points show markers
SMOOTHING_POINTS = 50  # the smoothed curve averages over about this fraction of the run
STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.titlecolor": INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "figure.constrained_layout.h_pad": 0.08,
    "figure.constrained_layout.w_pad": 0.08,
    "grid.color": INK,
    "grid.alpha": 0.12,
    "xtick.color": INK,
    "ytick.color": INK,
    "text.color": INK,
    "text.parse_math": False,  # a $ in a name is a $
    "legend.frameon": False,
    "savefig.dpi": 110,
    "svg.fonttype": "none",
}


@dataclass(frozen=True)
class Curve:
    """Values over steps; a smooth curve is drawn as its running average over a faint line."""

    label: str
    steps: Sequence[float]
    values: Sequence[float]
    smooth: bool = False


@dataclass(frozen=True)
class Panel:
    """One pair of axes."""

    title: str
    curves: tuple[Curve, ...]
    from_zero: bool = False


@dataclass(frozen=True)
class Plot:
    """A drawn figure as SVG and PNG; `name` is its file's stem."""

    name: str
    svg: str
    png: bytes


def curves(name: str, panels: Sequence[Panel]) -> Plot:
    """Panels over steps, two per row."""
    with rc_context({**STYLE, "svg.hashsalt": name}):
        columns = min(2, len(panels))
        rows = -(-len(panels) // columns)
        figure = Figure(figsize=(8, 2.6 * rows), layout="constrained")
        for number, panel in enumerate(panels):
            axes = figure.add_subplot(rows, columns, number + 1, title=panel.title)
            _draw(axes, panel)
            if number >= len(panels) - columns:
                axes.set_xlabel("step")
        return _plot(name, figure)


def bars(
    name: str,
    rows: Sequence[str],
    groups: Mapping[str, Sequence[float | None]],
    chance: Sequence[float],
    intervals: Mapping[str, Sequence[tuple[float, float] | None]],
) -> Plot:
    """Shares (0 to 1) by row, one bar per group with its interval, and a dotted mark at the score of guessing."""
    with rc_context({**STYLE, "svg.hashsalt": name}):
        height = 0.8 / len(groups)
        figure = Figure(figsize=(8, 0.7 + len(rows) * (0.18 + 0.2 * len(groups))), layout="constrained")
        axes = figure.add_subplot()
        for number, (label, values) in enumerate(groups.items()):
            places = [row + (number - (len(groups) - 1) / 2) * height for row in range(len(rows))]
            lengths = [_share(value or 0.0) for value in values]
            colour = COLOURS[number % len(COLOURS)]
            axes.barh(places, lengths, height * 0.9, color=colour, label=_label(label))
            ends = [
                tuple(map(_share, interval or (length, length)))
                for length, interval in zip(lengths, intervals[label], strict=True)
            ]
            axes.hlines(places, [low for low, _ in ends], [high for _, high in ends], color=INK, linewidth=1)
            for place, end, value in zip(places, ends, values, strict=True):
                text = "not measured" if value is None else f"{value:.0%}"
                axes.text(end[1] + 0.008, place, _label(text), va="center", fontsize=8)
        middles = range(len(rows))
        lower, upper = ([row + end for row in middles] for end in (-0.45, 0.45))
        axes.vlines(
            [_share(value) for value in chance],
            lower,
            upper,
            color=INK,
            linestyle="dotted",
            linewidth=1.2,
            label="guessing",
        )
        axes.set_yticks(middles, [_label(row) for row in rows])
        axes.invert_yaxis()
        axes.set_xlim(0, 1.08)
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "25 %", "50 %", "75 %", "100 %"])
        axes.grid(axis="y", visible=False)
        figure.legend(loc="outside upper right", ncols=len(groups) + 1)
        return _plot(name, figure)


def _draw(axes: Axes, panel: Panel) -> None:
    for number, curve in enumerate(panel.curves):
        colour = COLOURS[number % len(COLOURS)]
        if curve.smooth:
            axes.plot(curve.steps, curve.values, color=colour, linewidth=0.7, alpha=0.3)
            axes.plot(curve.steps, _smoothed(curve.values), color=colour, linewidth=1.6, label=curve.label)
        else:
            marker = "o" if len(curve.steps) < MARKED_POINTS else None
            axes.plot(
                curve.steps, curve.values, color=colour, linewidth=1.6, marker=marker, ms=3, label=curve.label
            )
    if panel.from_zero:
        axes.set_ylim(0, 1.1 * max(max(curve.values) for curve in panel.curves) or 1)
    if len(panel.curves) > 1:
        axes.legend()


def _share(value: float) -> float:
    """`value` clipped to the axes of `bars`."""
    return min(max(value, 0.0), 1.0)


def _label(text: str) -> str:
    """A name that can be drawn: short, without characters that have no glyph."""
    shown = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
    shown = shown if len(shown) <= LABEL_CHARS else shown[: LABEL_CHARS - 1] + "…"
    return f" {shown}" if shown.startswith("_") else shown  # matplotlib keeps a leading _ out of legends


def _file_stem(name: str) -> str:
    """`name` if it is valid on every file system, else its valid part with a hash."""
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name):
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{re.sub(r'[^A-Za-z0-9.]+', '-', name)[:60].strip('-.')}-{digest}".lstrip("-")


def _smoothed(values: Sequence[float]) -> list[float]:
    """An exponential moving average, with bias correction."""
    keep = 1 - 1 / max(1, len(values) / SMOOTHING_POINTS)
    smoothed, total, weight = [], 0.0, 0.0
    for value in values:
        total, weight = keep * total + (1 - keep) * value, keep * weight + (1 - keep)
        smoothed.append(total / weight)
    return smoothed


def _plot(name: str, figure: Figure) -> Plot:
    png = io.BytesIO()
    figure.savefig(png, format="png", facecolor="white", metadata={"Software": None})
    svg = io.StringIO()
    figure.savefig(svg, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return Plot(_file_stem(name), _for_page(svg.getvalue()), png.getvalue())


def _for_page(svg: str) -> str:
    """Just the svg element, scaled by the page, in its text colour and font."""
    element = svg[svg.index("<svg") :]
    element = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", element, count=1)
    element = re.sub(r'(<svg[^>]*?) width="[^"]*"', r'\1 role="img"', element, count=1)
    element = re.sub(r' id="[A-Za-z0-9.]+_[0-9]+"', "", element)  # nothing refers to these
    return element.replace(INK, "currentColor")
