import torch
from hypothesis import given
from hypothesis import strategies as st

from nanochat.eval.batching import length_batches, pad_right


@given(st.lists(st.integers(1, 50), max_size=40), st.integers(1, 200))
def test_every_row_once_longest_first_and_under_the_limit(lengths, max_tokens):
    batches = list(length_batches(lengths, max_tokens))
    order = [index for batch in batches for index in batch]
    assert sorted(order) == list(range(len(lengths)))
    assert [lengths[i] for i in order] == sorted(lengths, reverse=True)
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= max_tokens


@given(st.lists(st.lists(st.integers(0, 9), max_size=6), min_size=1, max_size=6))
def test_padding_stands_on_the_right(rows):
    padded = pad_right(rows, -1, torch.device("cpu"))
    assert padded.dtype == torch.int64
    for row, line in zip(rows, padded.tolist(), strict=True):
        assert line == row + [-1] * (padded.size(1) - len(row))
