"""Human-readable output goes to stderr, unchanged, and only from rank 0."""

import os
import subprocess
import sys

import pytest

from nanochat import console


def test_lines_go_to_stderr_unchanged(capsys: pytest.CaptureFixture[str]):
    long = "x" * 300
    console.say(f"[bold]not markup[/bold] {long}")
    console.warn("mind [this]")
    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"[bold]not markup[/bold] {long}\nwarning: mind [this]\n"


def test_a_table_shows_its_cells(capsys: pytest.CaptureFixture[str]):
    console.table("Sizes [x]", ["name", "n"], [["width [a]", 256], ["heads", 2]])
    out, err = capsys.readouterr()
    assert out == ""
    for text in ("Sizes [x]", "name", "width [a]", "256"):
        assert text in err


def test_without_a_terminal_progress_is_an_occasional_line(capsys, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    with console.progress("reading", 100, "MB") as bar:
        for step in range(26):
            bar.update(step, loss=f"{step}")
            now[0] += 1
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "reading: 10/100 MB, 1 MB/s, 1m30s left, loss 10",
        "reading: 20/100 MB, 1 MB/s, 1m20s left, loss 20",
        "reading: 25/100 MB, 1 MB/s, 1m15s left, loss 25, took 26s",
    ]


def test_the_rate_of_a_resumed_task_counts_only_new_work(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    with console.progress("training", None, "tok") as bar:
        bar.update(1_000_000)
        now[0] = 20.0
        bar.update(1_000_040)
    assert "2 tok/s" in capsys.readouterr().err


def test_quick_or_disabled_work_prints_nothing(capsys, monkeypatch):
    with console.progress("quick", 2) as bar:
        bar.update(2)
    now = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    with console.progress("other process", 2, enabled=False) as bar:
        now[0] = 100.0
        bar.update(1)
    assert capsys.readouterr() == ("", "")


def test_on_a_terminal_progress_is_a_bar(monkeypatch, capsys):
    monkeypatch.setattr(console, "console", lambda: Console(stderr=True, force_terminal=True, width=120))
    from rich.console import Console

    with console.progress("reading [a]", 10, "MB") as bar:
        bar.update(4, loss="2.5")
        bar.update(10, loss="2.4")
    err = capsys.readouterr().err
    assert "reading [a]" in err
    assert "10/10 MB" in err
    assert "loss 2.4" in err


@pytest.mark.parametrize(("rank", "said"), [("0", "hello\n"), ("1", "")])
def test_only_rank_0_prints(rank: str, said: str):
    done = subprocess.run(
        [sys.executable, "-c", "from nanochat.console import say; say('hello')"],
        env={**os.environ, "RANK": rank},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == said


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (7, "7"),
        (999, "999"),
        (12_345, "12.3k"),
        (999_499, "999k"),
        (999_999, "1M"),
        (999.6e6, "1G"),
        (4.56e6, "4.56M"),
        (2e9, "2G"),
        (1e13, "10T"),
    ],
)
def test_amounts_are_short(value: float, text: str):
    assert console.amount(value) == text


@pytest.mark.parametrize(("number", "text"), [(0, "0 rows"), (1, "1 row"), (2048, "2,048 rows")])
def test_a_noun_is_in_the_plural_unless_there_is_one(number: int, text: str):
    assert console.counted(number, "row") == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "0s"), (59.6, "1m00s"), (200, "3m20s"), (18_420, "5h07m"), (3599.7, "1h00m")]
)
def test_durations_are_short(seconds: float, text: str):
    assert console.duration(seconds) == text
