import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nanochat.eval.bpb import bits_per_byte, cut, score
from nanochat.text.readers import Document

TEXTS = [
    "The harbour lies below the town. " * 9,
    "Grüße aus Köln, 한국어도 있다 🐧. " * 4,
    "x",
    "A boat came home late.\n" * 7,
    "<|bos|> is plain text here",
]
DOCUMENTS = [Document(text, "sea" if "harbour" in text or "boat" in text else "") for text in TEXTS]


def plain_nats(model, tokenizer, document, context, stride=None):
    """One window at a time, one document at a time, through the whole logits."""
    ids = [tokenizer.bos, *tokenizer.encode(document)]
    stride = stride or context
    total = 0.0
    for done in range(0, len(ids) - 1, stride):
        scored = min(stride, len(ids) - 1 - done)
        window = torch.tensor([ids[max(0, done + stride - context) : done + scored + 1]])
        with torch.no_grad():
            logits = model.logits(model(window[:, :-1]))
        total += F.cross_entropy(logits[0, -scored:].double(), window[0, -scored:], reduction="sum").item()
    return total


@pytest.mark.slow
@pytest.mark.parametrize("context", [1, 7, 64])
@pytest.mark.parametrize("batch_tokens", [1, 50, 10_000])
def test_equals_one_document_at_a_time(model, tokenizer, runtime, context, batch_tokens):
    result = bits_per_byte(
        model, tokenizer, DOCUMENTS, runtime, max_seq_len=context, batch_tokens=batch_tokens
    )
    nats = sum(plain_nats(model, tokenizer, document, context) for document in TEXTS)
    n_bytes = sum(len(document.encode()) for document in TEXTS)
    assert result.bytes == n_bytes
    assert result.documents == len(DOCUMENTS)
    assert result.tokens == sum(len(tokenizer.encode(document)) for document in TEXTS)
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
    assert np.sum(partial) == pytest.approx(whole.nats, rel=1e-6)


@pytest.mark.slow
@given(st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=10)
def test_the_same_for_any_batch_and_any_number_of_processes(model, tokenizer, runtime, members, data):
    context = data.draw(st.integers(16, 64), "context")
    stride = data.draw(st.integers(8, context), "stride")
    windows = cut(tokenizer, DOCUMENTS, max_seq_len=context, stride=stride)
    one = score(model, windows, runtime, batch_tokens=data.draw(st.integers(60, 4000), "batch"))
    runtimes, partial = members(data.draw(st.integers(2, 4), "processes"))
    for member in runtimes:
        score(model, windows, member, batch_tokens=data.draw(st.integers(60, 4000), "batch of a process"))
    plain = [plain_nats(model, tokenizer, text, context, stride) for text in TEXTS]
    assert np.sum(partial, axis=0) == pytest.approx(plain, rel=1e-6)
    n_bytes = sum(len(text.encode()) for text in TEXTS)
    assert one.bpb == pytest.approx(sum(plain) / math.log(2) / n_bytes, rel=1e-6)
    assert (one.context, one.stride) == (context, stride)
    nothing, sea = one.sources
    assert (nothing.source, sea.source, nothing.documents, sea.documents) == ("", "sea", 3, 2)
    assert nothing.bytes + sea.bytes == n_bytes
    for source in one.sources:
        its = [
            nats for nats, document in zip(plain, DOCUMENTS, strict=True) if document.source == source.source
        ]
        assert source.bpb == pytest.approx(sum(its) / math.log(2) / source.bytes, rel=1e-6)


def test_sources_are_named_only_where_documents_carry_them(model, tokenizer, runtime):
    one = bits_per_byte(model, tokenizer, map(Document, TEXTS), runtime, max_seq_len=64, batch_tokens=999)
    assert one.sources == ()


@pytest.mark.parametrize("stride", [0, 17])
def test_a_stride_beyond_the_context_is_refused(tokenizer, stride):
    with pytest.raises(ValueError, match="from 1 to the context of 16 tokens"):
        cut(tokenizer, DOCUMENTS, max_seq_len=16, stride=stride)


@given(
    st.lists(st.text(max_size=60), max_size=8), st.integers(1, 20), st.none() | st.integers(0, 100), st.data()
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_windows_score_every_token_once(tokenizer, texts, context, max_bytes, data):
    texts = [text.encode("utf-8", "replace").decode() for text in texts]
    documents = list(map(Document, texts))
    stride = data.draw(st.none() | st.integers(1, context))
    if not any(texts):
        with pytest.raises(ValueError, match="no text"):
            cut(tokenizer, documents, max_seq_len=context, max_bytes=max_bytes)
        return
    windows = cut(tokenizer, documents, max_seq_len=context, max_bytes=max_bytes, stride=stride)
    chosen = [text for text in texts if text][: windows.documents]
    targets = [
        position
        for start, length, scored in zip(windows.starts, windows.lengths, windows.scored, strict=True)
        for position in range(start + length - scored + 1, start + length + 1)
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
