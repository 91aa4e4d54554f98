"""`report reset` and `report generate` over generated artefacts."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from nanochat import hardware
from nanochat.cli.main import main
from nanochat.paths import Paths
from nanochat.report.generate import GenerateConfig, GenerateResult, ResetConfig, run_generate, run_reset

pytestmark = pytest.mark.slow

VOID = {"meta", "link", "br", "img", "hr"}


class _Page(HTMLParser):
    """Checks that every element is closed in order, and records the page's contents."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.fetched: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.ids += [value or "" for name, value in attrs if name == "id"]
        self.fetched += [value or "" for name, value in attrs if name in ("src", "data", "srcset")]
        if tag == "link":
            self.fetched.append(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def _page(html: str) -> _Page:
    page = _Page()
    page.feed(html)
    page.close()
    assert page.open == []
    return page


def test_the_report_tells_the_whole_pipeline(generated: GenerateResult) -> None:
    assert generated.sections == (
        "Summary",
        "Tokenizer",
        "Pretraining",
        "Supervised fine-tuning",
        "CORE",
        "Tasks",
        "What it says",
        "Time",
        "Machine",
    )
    text = generated.markdown.read_text()
    assert "| model | 4 layers, width 256, 4 heads of 64, context 256, vocabulary 2,048 |" in text
    assert "| validation | 1.1183 bits per byte |" in text
    assert "| tasks answered right | 13.5% (baserun) → 90.0% (sft), mean of 2 tasks |" in text
    assert "| CORE | 0.2600, from a part of its tasks (GPT-2: 0.2565) |" in text
    assert "| copa | 100 | 50% | 60.0% |" in text
    assert "| cost | $0.67 |" in text  # 4 + 64 + 32 seconds
    assert "| facts | 200 | 25% | 27.0% | 95.0% |" in text
    assert "| identity | 50 | 0% |  | 100.0% |" in text
    assert "8 × Test GPU (80 GiB)" in text
    assert "| code | 1.90 | 1.90 |" in text
    assert "Not done yet" not in text


def test_every_table_of_the_markdown_has_even_rows(generated: GenerateResult) -> None:
    text = generated.markdown.read_text()
    tables = re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE)
    assert len(tables) >= 6
    for table in tables:
        bars = {len(re.findall(r"(?<!\\)\|", row)) for row in table.splitlines()}
        assert len(bars) == 1, table


def test_every_plot_that_the_markdown_names_lies_beside_it(generated: GenerateResult) -> None:
    names = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", generated.markdown.read_text())
    assert names == ["plots/baserun-pretrain.png", "plots/sft-sft.png", "plots/tasks.png"]
    for name in names:
        assert (generated.markdown.parent / name).read_bytes().startswith(b"\x89PNG")


def test_the_page_is_whole_and_fetches_nothing(generated: GenerateResult) -> None:
    page = _page(generated.html.read_text())
    assert page.tags.count("svg") == 3
    assert page.fetched == []
    assert "script" not in page.tags
    assert len(page.ids) - len(set(page.ids)) == 0, "doubled ids"
    assert any("| <b>odd</b>" in text for text in page.text), "what a model says is text, never markup"


def test_the_same_artefacts_give_the_same_bytes(pipeline: Paths) -> None:
    def files() -> dict[str, bytes]:
        run_generate(GenerateConfig(), pipeline)
        return {str(path): path.read_bytes() for path in pipeline.report.rglob("*") if path.is_file()}

    assert files() == files()


def test_what_is_missing_is_said(pipeline: Paths) -> None:
    pipeline.metrics("sft").unlink()
    pipeline.metrics("tokenizer").unlink()
    result = run_generate(GenerateConfig(), pipeline)
    assert "Not done yet: tokenizer train, sft, eval chat." in result.markdown.read_text()
    assert "Supervised fine-tuning" not in result.sections


def test_nothing_to_report_is_one_line(paths: Paths, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "generate"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "no stage has run" in line
    assert not paths.report.exists()


def test_reset_archives_the_report_and_leaves_out_older_runs(pipeline: Paths) -> None:
    first = run_generate(GenerateConfig(), pipeline)
    archived = run_reset(ResetConfig(), pipeline).archived
    assert archived is not None
    assert (archived / "report" / "report.html").exists()
    assert not first.markdown.exists()
    with pytest.raises(ValueError, match="since the last `nanochat report reset`"):
        run_generate(GenerateConfig(), pipeline)
    assert run_reset(ResetConfig(), pipeline).archived is None  # there was no report to archive


def test_reset_describes_the_machine(paths: Paths) -> None:
    from nanochat.report.artefacts import read_system

    run_reset(ResetConfig(), paths)
    system = read_system(paths)
    assert system is not None
    assert system.software is not None
    assert system.software["python"]
    assert system.hardware == replace(hardware.describe(), memory=system.hardware.memory)
    assert system.hardware.memory.total > 0
