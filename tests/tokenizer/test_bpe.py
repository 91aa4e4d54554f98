"""Limits of training, its facts, and its refusals. (What it learns: test_reference.py.)"""

import logging
import signal
from collections.abc import Iterator

import pytest

from nanochat.tokenizer.bpe import train_tokenizer


def endless() -> Iterator[str]:
    while True:
        yield "one two three four"


def test_reading_stops_at_max_chars() -> None:
    tokenizer = train_tokenizer(endless(), 268, max_chars=1000)
    assert tokenizer.training["characters"] == 1000
    assert tokenizer.training["bytes"] == 1000
    assert tokenizer.training["documents"] == 56


def test_no_document_gives_more_than_doc_cap() -> None:
    """The tail beyond the cap is not learnt from, however often it repeats."""
    capped = train_tokenizer(["abab" + "xyz" * 1000] * 3, 266, max_chars=10**6, doc_cap=4)
    assert capped.training["characters"] == 12
    assert capped.decode_bytes([256]) == b"ab"


def test_an_interrupt_while_merging_is_one() -> None:
    """It arrives in the handler of rustbpe's log lines, where Python code runs."""

    class Interrupting(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.getMessage().startswith("Progress"):
                signal.raise_signal(signal.SIGINT)

    handler = Interrupting()
    logging.getLogger("rustbpe").addHandler(handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            train_tokenizer(["abcdefg hij"], 268, max_chars=10**6)
    finally:
        logging.getLogger("rustbpe").removeHandler(handler)


def test_facts_are_kept(capsys: pytest.CaptureFixture[str]) -> None:
    facts = train_tokenizer(["naïve 😀"], 268, pattern="marks", max_chars=10**6).training
    assert facts.pop("trainer").startswith("rustbpe ")
    assert facts == {
        "split_pattern": "marks",
        "dataset": None,
        "documents": 1,
        "characters": 7,
        "bytes": 11,
        "doc_cap": 10_000,
        "max_chars": 10**6,
    }
    assert capsys.readouterr().out == ""


def test_the_progress_of_merging_is_shown_and_logging_left_as_it_was(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("nanochat.console.PLAIN_INTERVAL_S", 0.0)
    logger = logging.getLogger("rustbpe")
    before = logger.level, logger.propagate, list(logger.handlers)
    train_tokenizer(["one two three four"] * 2, 268, max_chars=10**6)
    shown = capsys.readouterr().err
    assert "reading text: 36 chars" in shown
    assert "learning merges: 100/100 %" in shown
    assert (logger.level, logger.propagate, list(logger.handlers)) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"vocab_size": 264}, "264 is too small: bytes and special tokens take 265"),
        ({"vocab_size": 2**32}, "too large: at most 2,147,483,647 tokens"),
        (
            {"vocab_size": 300, "pattern": "klingon"},
            "unknown split pattern 'klingon': choose one of default, ",
        ),
        ({"vocab_size": 300, "max_chars": 0}, "must lie between 1 and 2,147,483,647"),
        ({"vocab_size": 300, "max_chars": 2**31}, "must lie between 1 and 2,147,483,647"),
        ({"vocab_size": 300, "doc_cap": 0}, "must be at least 1"),
        (
            {"vocab_size": 300},
            r"\(6 characters\) gives only 268 tokens, not 300: .* --vocab-size 268 or less",
        ),
    ],
)
def test_mistakes_are_one_clear_line(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        train_tokenizer(["ab abc"], **{"max_chars": 100, **arguments})


def test_a_lone_surrogate_is_no_obstacle() -> None:
    assert train_tokenizer(["ab\ud800 ab"], 266, max_chars=100).training["characters"] == 6


def test_an_error_of_the_text_stream_comes_through() -> None:
    def broken() -> Iterator[str]:
        yield "some text"
        raise OSError("disk gone")

    with pytest.raises(OSError, match="disk gone"):
        train_tokenizer(broken(), 266, max_chars=100)
