import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nanochat.eval.bpb import bits_per_byte, cut, score

DOCUMENTS = [
    "The harbour lies below the town. " * 9,
    "Grüße aus Köln, 한국어도 있다 🐧. " * 4,
    "x",
    "A boat came home late.\n" * 7,
    "<|bos|> is plain text here",
]


def plain_nats(model, tokenizer, document, context):
    """One window at a time, one document at a time, through the whole logits."""
    ids = [tokenizer.bos, *tokenizer.encode(document)]
    total = 0.0
    for start in range(0, len(ids) - 1, context):
        window = torch.tensor([ids[start : start + context + 1]])
        with torch.no_grad():
            logits = model.logits(model(window[:, :-1]))
        total += F.cross_entropy(logits[0].double(), window[0, 1:], reduction="sum").item()
    return total


@pytest.mark.parametrize("context", [1, 7, 64])
@pytest.mark.parametrize("batch_tokens", [1, 50, 10_000])
def test_equals_one_document_at_a_time(model, tokenizer, runtime, context, batch_tokens):
    result = bits_per_byte(
        model, tokenizer, DOCUMENTS, runtime, max_seq_len=context, batch_tokens=batch_tokens, max_bytes=None
    )
    nats = sum(plain_nats(model, tokenizer, document, context) for document in DOCUMENTS)
    n_bytes = sum(len(document.encode()) for document in DOCUMENTS)
    assert result.bytes == n_bytes
    assert result.documents == len(DOCUMENTS)
    assert result.tokens == sum(len(tokenizer.encode(document)) for document in DOCUMENTS)
    assert result.nats == pytest.approx(nats, rel=1e-6)
    assert result.bpb == pytest.approx(nats / math.log(2) / n_bytes, rel=1e-6)


@pytest.mark.parametrize("world", [2, 3])
def test_the_shares_of_all_processes_make_the_whole(model, tokenizer, runtime, members, world):
    windows = cut(tokenizer, DOCUMENTS, max_seq_len=16)
    whole = score(model, windows, runtime, batch_tokens=64)
    runtimes, partial = members(world)
    for member in runtimes:
        score(model, windows, member, batch_tokens=64)
    assert len(partial) == world
    assert sum(partial) == pytest.approx(whole.nats, rel=1e-6)


@given(st.lists(st.text(max_size=60), max_size=8), st.integers(1, 20), st.none() | st.integers(0, 100))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_windows_score_every_token_once(tokenizer, documents, context, max_bytes):
    documents = [text.encode("utf-8", "replace").decode() for text in documents]
    if not any(documents):
        with pytest.raises(ValueError, match="no text"):
            cut(tokenizer, documents, max_seq_len=context, max_bytes=max_bytes)
        return
    windows = cut(tokenizer, documents, max_seq_len=context, max_bytes=max_bytes)
    chosen = [text for text in documents if text][: windows.documents]
    targets = [
        position
        for start, length in zip(windows.starts, windows.lengths, strict=True)
        for position in range(start + 1, start + length + 1)
    ]
    boundaries = np.flatnonzero(windows.ids == tokenizer.bos)
    assert sorted([*targets, *boundaries]) == list(range(len(windows.ids)))
    assert windows.lengths.max() <= context
    assert windows.bytes == sum(len(text.encode()) for text in chosen)
    assert max_bytes is None or windows.documents == 1 or windows.bytes <= max_bytes
    assert tokenizer.decode(windows.ids[targets]) == "".join(chosen)


def test_the_choice_of_documents_does_not_depend_on_the_context(tokenizer):
    chosen = {cut(tokenizer, DOCUMENTS, max_seq_len=context, max_bytes=500).bytes for context in (1, 9, 64)}
    assert len(chosen) == 1
    assert chosen.pop() <= 500


def test_a_context_of_nothing_is_refused(tokenizer):
    with pytest.raises(ValueError, match="context must be at least 1"):
        cut(tokenizer, DOCUMENTS, max_seq_len=0)
