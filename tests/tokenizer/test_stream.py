"""Streams give only whole characters, and in total the same text as decode."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.tokenizer.tokenizer import Tokenizer

IDS = st.lists(st.integers(0, 339), max_size=40)


@pytest.mark.slow
@given(ids=IDS)
@settings(deadline=None, max_examples=300)
def test_any_ids_join_to_what_decode_gives(tokenizer: Tokenizer, ids: list[int]) -> None:
    stream = tokenizer.stream()
    pieces = [stream.push(token) for token in ids]
    assert "".join(pieces) + stream.flush() == tokenizer.decode(ids)


@given(text=st.text(min_size=1))
@settings(deadline=None)
def test_no_half_characters(tokenizer: Tokenizer, text: str) -> None:
    """With a token per byte, the worst case, the output at any moment is a prefix."""
    stream, shown = tokenizer.stream(), ""
    for byte in text.encode():
        shown += stream.push(byte)  # the first 256 ids are the bytes
        assert text.startswith(shown)
    assert shown == text
    assert stream.flush() == ""


def test_a_character_cut_off_is_replaced_once_and_the_stream_starts_anew(tokenizer: Tokenizer) -> None:
    stream = tokenizer.stream()
    assert stream.push("é".encode()[0]) == ""
    assert stream.flush() == "\ufffd"
    assert stream.push(ord("a")) == "a"


def test_specials_are_shown_by_name(tokenizer: Tokenizer) -> None:
    assert tokenizer.stream().push(tokenizer.bos) == "<|bos|>"
