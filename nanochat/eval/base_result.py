"""The result of `nanochat eval base`, as tables on the terminal and as csv."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nanochat.console import say, table
from nanochat.eval.bpb import BpbResult, SourceBpb
from nanochat.eval.core import GPT2_CORE, CoreResult
from nanochat.eval.samples import Sample
from nanochat.eval.score_csv import CsvLine, accuracy_line
from nanochat.eval.score_table import ScoreLine, show_scores


@dataclass(frozen=True)
class TextScore:
    """The bits per byte of a text: of a split, or named with --bpb."""

    name: str
    score: BpbResult


@dataclass(frozen=True)
class EvalBaseResult:
    """`core` is None if CORE was not requested or its bundle is missing; `answers` is the folder of all answers."""

    model_tag: str
    step: int
    dataset: str
    train: BpbResult
    val: BpbResult
    texts: tuple[TextScore, ...]
    samples: tuple[Sample, ...]
    core: CoreResult | None
    answers: str

    @property
    def all_texts(self) -> tuple[TextScore, ...]:
        """Those of the dataset first."""
        return (TextScore("training", self.train), TextScore("validation", self.val), *self.texts)


def show(result: EvalBaseResult) -> None:
    """Print the samples and the tables."""
    for text in result.samples:
        say(f"  {text.prompt}|{text.text}")
    table(
        f"{result.model_tag} at step {result.step} on {result.dataset}",
        ("text", "bits per byte", "bytes", "documents"),
        [line for text in result.all_texts for line in _bpb_lines(Path(text.name).name, text.score)],
    )
    context, stride = result.val.context, result.val.stride
    overlap = f", of which the last {stride:,} are scored" if stride < context else ""
    say(f"windows of {context:,} tokens{overlap}")
    core = result.core
    if core is None:
        return
    lines = [
        ScoreLine(task.label, task.accuracy, task.interval, task.n, task.baseline, task.centred)
        for task in core.tasks
    ]
    n = sum(task.n for task in core.tasks)
    mean = ScoreLine("CORE (centred)", core.core, core.interval, n, 0.0, core.core, GPT2_CORE)
    title = f"CORE {core.core:.4f}{' (partial)' if core.partial else ''}, standard error {core.standard_error:.4f}"
    show_scores(f"{title}; GPT-2 (◇) has {GPT2_CORE:.4f}, guessing (┊) 0", [*lines, mean])
    say(f"every answer is in {result.answers}")
    if core.missing:
        say(f"missing from the bundle, so this CORE is partial: {', '.join(core.missing)}")


def _bpb_lines(name: str, score: BpbResult) -> list[tuple[str, ...]]:
    parts: list[tuple[str, BpbResult | SourceBpb]] = [(name, score)]
    parts += [(f"  {part.source or '(no source)'}", part) for part in score.sources]
    return [(title, f"{part.bpb:.4f}", f"{part.bytes:,}", f"{part.documents:,}") for title, part in parts]


def csv_lines(result: EvalBaseResult) -> Iterator[CsvLine]:
    """All scores."""
    for text in result.all_texts:
        score = text.score
        yield CsvLine(text.name, "", "bits per byte", score.bpb, items=score.documents)
        for part in score.sources:
            yield CsvLine(text.name, part.source, "bits per byte", part.bpb, items=part.documents)
    if result.core is None:
        return
    for task in result.core.tasks:
        yield accuracy_line(task.label, task.accuracy, task.interval, task.n, task.baseline)
    core, name = result.core, "CORE (partial)" if result.core.partial else "CORE"
    yield CsvLine(
        name,
        "",
        "mean centred accuracy",
        core.core,
        core.interval.low,
        core.interval.high,
        sum(task.n for task in core.tasks),
        0.0,
        core.standard_error,
    )
    yield CsvLine("GPT-2", "", "mean centred accuracy", GPT2_CORE)
