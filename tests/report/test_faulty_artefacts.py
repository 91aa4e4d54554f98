"""With any artefacts, the report is written, says what it left out, and shows the rest as text."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from nanochat.metrics_rows import ConfigRow, EvalRow, Row, SampleRow, StageRow, TasksRow
from nanochat.paths import Paths
from nanochat.report import figures
from nanochat.report.generate import GenerateConfig, run_generate
from tests.report.conftest import BEGIN, log_rows, log_training, train_row

pytestmark = pytest.mark.slow

Fault = Callable[[Paths], object]
MARKUP = (
    "<script>alert(1)</script><img src=x onerror=alert(2)> | **bold** `code` [link](javascript:a) & _em_ "
    "\\| $\\foo{$"
)
STRANGE = "$\\foo{$ <b>a|b _x_ (1)"


@pytest.fixture
def trained(paths: Paths) -> Paths:
    """A small base directory, so that its report is quick to write."""
    log_training(paths, "baserun", "pretrain", 8)
    log_rows(paths, "baserun", "eval-chat", [TasksRow(8, {"facts": 0.5}, {"facts": 4}, {"facts": 0.25})])
    return paths


def _line(text: str | bytes, run: str = "baserun") -> Fault:
    """A line in the metrics of a run."""

    def write(paths: Paths) -> None:
        with open(paths.metrics(run), "ab") as file:
            file.write((text if isinstance(text, bytes) else text.encode()) + b"\n")

    return write


def _changed(**changes: object) -> Fault:
    """A training step with other values."""
    head = {"kind": "train", "stage": "pretrain", "time": 4e9}
    return _line(json.dumps({**head, **train_row(81, 81).__dict__, **changes}))


def _rows(*rows: Row, run: str = "baserun", stage: str = "eval-chat") -> Fault:
    return lambda paths: log_rows(paths, run, stage, rows)


def _system(text: str) -> Fault:
    return lambda paths: _write(paths.report / "system.json", text)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def _run_named(name: bytes) -> Fault:
    """A trained run in a folder of this name."""

    def make(paths: Paths) -> None:
        log_training(paths, "plain", "sft", 8)
        log_rows(paths, "plain", "eval-chat", [TasksRow(8, {"facts": 0.5}, {"facts": 4}, {})])
        home = os.fsencode(paths.metrics("plain").parent)
        os.rename(home, os.path.join(os.path.dirname(home), name))

    return make


def _directory(paths: Paths) -> None:
    (paths.base / "runs" / "other" / "metrics.jsonl").mkdir(parents=True)


LEFT_OUT: dict[str, Fault] = {
    "null": _line("null"),
    "a list": _line("[1]"),
    "a number": _line("3"),
    "no kind": _line('{"stage": "pretrain", "time": 4e9, "step": 1}'),
    "unknown kind": _line('{"kind": "tarin", "stage": "pretrain", "time": 4e9}'),
    "kind of another type": _line('{"kind": {}, "stage": "pretrain", "time": 4e9}'),
    "no time": _line('{"kind": "done", "stage": "pretrain", "wall_s": 1.0}'),
    "a field missing": _line('{"kind": "sample", "stage": "pretrain", "time": 4e9, "step": 1}'),
    "loss of letters": _changed(loss="low"),
    "step of letters": _changed(step="8"),
    "learning rate NaN": _changed(lr=float("nan")),
    "a huge loss": _changed(loss=1e308),
    "a huge count": _changed(tokens=10**40),
    "nested too deeply": _line("[" * 5000),
    "nested deeply and closed": _line('{"a":' * 500 + "1" + "}" * 500),
    "not UTF-8": _line(b"\xff\xfe{}"),
    "half a character": _line('{"kind": "wandb", "stage": "sft", "time": 4e9, "id": "\\ud800"}'),
    "scores of letters": _line(
        '{"kind": "tasks", "stage": "eval-chat", "time": 4e9, "step": 1, "scores": {"facts": "all"},'
        ' "counts": {}, "baselines": {}}'
    ),
    "a folder for a file": _directory,
    "system: torn": _system('{"time": 1'),
    "system: a list": _system("[1, 2]"),
    "system: no time": _system('{"hardware": null}'),
    "system: hardware of letters": _system('{"time": 1.0, "hardware": "large"}'),
    "system: nested too deeply": _system("[" * 5000),
    "plan without sizes": _rows(replace(BEGIN, plan={"model": {"n_layer": "x"}}), stage="pretrain"),
    "plan of another type": _rows(replace(BEGIN, plan={"model": [1]}), stage="pretrain"),
}
SHOWN: dict[str, Fault] = {
    "loss NaN": _changed(loss=float("nan")),
    "loss at the bounds": _changed(loss=3.4e38, step=2**62, lr=-3.4e38, tok_per_s=0.0),
    "only NaN to plot": _rows(EvalRow(1, val_bpb=float("nan")), run="odd", stage="sft"),
    "a score beyond all shares": _rows(TasksRow(1, {"odd": 3e38, "other": -5.0}, {}, {"odd": -1e30})),
    "an interval beyond all shares": _rows(
        TasksRow(1, {"odd": 0.5}, {"odd": 4}, {"odd": 0.1}, {"odd": (-3e38, 3e38), "unknown": (0.1, 0.2)})
    ),
    "many tasks": _rows(TasksRow(1, {f"task-{number}": 0.5 for number in range(3000)}, {}, {})),
    "many runs": lambda paths: [
        log_rows(paths, f"run-{number}", "eval-chat", [TasksRow(1, {"facts": 0.5}, {}, {})])
        for number in range(30)
    ],
    "mathtext in a task": _rows(TasksRow(1, {"$\\foo{$": 0.5, "_hidden": 0.5, "": 0.1}, {}, {})),
    "a task of ten thousand letters": _rows(TasksRow(1, {"x" * 10_000: 0.5}, {}, {})),
    "control characters": _rows(
        TasksRow(1, {"a\x00\x1b[31m\n\u202eb": 0.5}, {}, {}), SampleRow(1, "\x1b[2J\x00", "\x1b]0;title\x07")
    ),
    "html in a task": _rows(TasksRow(1, {MARKUP: 0.5}, {MARKUP: 5}, {})),
    "html in a sample": _rows(SampleRow(1, MARKUP, MARKUP + "\n\n</pre></code>" + MARKUP)),
    "a heading for a prompt": _rows(SampleRow(1, "# " + MARKUP, "1. a\n- b")),
    "html in settings": _rows(
        replace(BEGIN, config={MARKUP: MARKUP, "deep": {MARKUP: [MARKUP]}}), stage="pretrain"
    ),
    "html in a stage's name": _rows(StageRow(MARKUP, "a", (), "done", 5.0), run="recipe", stage="recipe"),
    "a stage that leaves the folder": _rows(BEGIN, train_row(1, 2), run="sft", stage="../../../stray"),
    "a run with a strange name": _run_named(STRANGE.encode()),
    "a run with html for a name": _run_named(b"<script>alert(1)<!--"),
    "a run with a long name": _run_named(b"n" * 250),
    "a run of no characters": _run_named(b"\xff\xfe \n."),
}


class _Text(HTMLParser):
    """The tags of a page, and the text of its cells and paragraphs."""

    SHOWN = ("td", "p", "code")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.cells: list[str] = []
        self.inside = False
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag in self.SHOWN:
            self.inside = True
            self.cells.append("")

    def handle_endtag(self, tag: str) -> None:
        self.inside = self.inside and tag not in self.SHOWN

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.cells[-1] += data


def _rendered(markdown: str) -> _Text:
    """Markdown as a renderer that lets html through shows it."""
    return _Text(MarkdownIt("commonmark", {"html": True}).enable("table").render(markdown))


def _check(paths: Paths) -> str:
    """Write the report, check that it is complete, and return its markdown."""
    result = run_generate(GenerateConfig(), paths)
    text = result.markdown.read_text()
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f]", text)
    assert {"Summary", "Pretraining", "Tasks", "Machine"} <= set(result.sections)
    page, shown = _Text(result.html.read_text()), _rendered(text)
    assert not {"script", "img", "b"} & page.tags
    assert not {"script", "b", "a"} & shown.tags
    assert not {"onerror", "onload"} & (page.attributes | shown.attributes)
    plots = re.findall(r"!\[[^\]]*\]\(plots/([^)]+)\)", text)
    assert plots
    for plot in plots:
        assert (paths.report / "plots" / plot).read_bytes().startswith(b"\x89PNG")
    assert {path.name for path in (paths.report / "plots").iterdir()} >= set(plots)
    return text


@pytest.mark.parametrize("fault", LEFT_OUT.values(), ids=LEFT_OUT)
def test_what_is_malformed_is_left_out_and_named(
    trained: Paths, fault: Fault, capsys: pytest.CaptureFixture[str]
) -> None:
    fault(trained)
    text = _check(trained)
    (line,) = [line for line in text.splitlines() if line.startswith("Left out as malformed: ")]
    assert re.search(r"runs/|system\.json|the model in the plan", line)
    assert str(trained.base) not in text, "a report may be passed on"
    warnings = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert len(warnings) == 1
    assert "8 steps" in text


@pytest.mark.parametrize("fault", SHOWN.values(), ids=SHOWN)
def test_what_is_odd_is_shown_as_text(trained: Paths, fault: Fault) -> None:
    fault(trained)
    assert "Left out" not in _check(trained)
    assert not list(trained.base.parent.rglob("stray*"))


def test_all_of_them_together_give_the_same_bytes_twice(trained: Paths) -> None:
    for fault in (*LEFT_OUT.values(), *SHOWN.values()):
        fault(trained)

    def report() -> dict[Path, bytes]:
        _check(trained)
        return {path: path.read_bytes() for path in trained.report.rglob("*") if path.is_file()}

    assert report() == report()


@pytest.mark.parametrize("fault", ["null", "system: torn"])
def test_nothing_but_faults_is_a_report_too(paths: Paths, fault: str) -> None:
    paths.metrics("baserun").parent.mkdir(parents=True)
    LEFT_OUT[fault](paths)
    result = run_generate(GenerateConfig(), paths)
    assert result.sections == ("Summary",)
    assert "Left out as malformed: " in result.markdown.read_text()


def test_markup_in_a_cell_reads_as_it_was_written(trained: Paths) -> None:
    log_rows(trained, "sft", "sft", [ConfigRow({"note": MARKUP}), train_row(1, 1)])
    log_rows(trained, "sft", "eval-chat", [SampleRow(1, MARKUP, MARKUP), SampleRow(1, f"# {MARKUP}", "")])
    result = run_generate(GenerateConfig(), trained)
    for shown in (_rendered(result.markdown.read_text()), _Text(result.html.read_text())):
        cells = [cell.strip() for cell in shown.cells]
        assert cells.count(MARKUP) >= 2, "the setting and the answer"
        assert any(cell.startswith(f"# {MARKUP}") for cell in cells)


@pytest.mark.parametrize("name", ["$\\foo{$", "$x^2$", "a_b", "<b>&"])
def test_names_are_drawn_as_they_are(name: str) -> None:
    plot = figures.bars("tasks", [name], {name: [0.5]}, [0.25], {name: [None]})
    assert len([text for text in _Texts(plot.svg).found if text == name]) == 2


class _Texts(HTMLParser):
    """The texts of a drawing."""

    def __init__(self, svg: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(svg)

    def handle_data(self, data: str) -> None:
        self.found.append(data)


def test_plots_of_strange_runs_have_files_of_their_own() -> None:
    panels = [figures.Panel("loss", (figures.Curve("training", [1, 2], [2.0, 1.0]),))]
    names = [figures.curves(name, panels).name for name in ("a b", "a/b", "a_b", "../a", "x" * 300, "_", ".")]
    assert len(set(names)) == len(names)
    assert names[2] == "a_b"
    assert all(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name) for name in names)
