"""The stream of rows against plain Python: the same tokens, in an order that only the seed decides."""

from itertools import islice, pairwise
from typing import get_args

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from nanochat.batches.packing import Policy
from nanochat.batches.position import RowPosition
from nanochat.batches.rows import ConversationWindows, RowStream, TokenWindows
from nanochat.batches.token_files import TokenPiece
from nanochat.conversations.rendering import RenderedConversations
from nanochat.model.loss import IGNORE

BOS = 0


class Store:
    """Token pieces in memory with the interface of a TokenStore: `shards[s][p]` is a list of documents."""

    def __init__(self, shards: list[list[list[list[int]]]]):
        self._shards = shards

    def __len__(self) -> int:
        return len(self._shards)

    def expect(self, order: list[int], position: int) -> None:
        assert sorted(order) == list(range(len(self)))
        assert position in range(len(self))

    def piece(self, shard: int, index: int) -> TokenPiece | None:
        if index >= len(self._shards[shard]):
            return None
        documents = self._shards[shard][index]
        offsets = np.cumsum([0, *map(len, documents)])
        return TokenPiece(np.array([t for d in documents for t in d], dtype=np.uint16), offsets)

    def info(self, shard: int) -> None:
        return None


@st.composite
def stores(draw: st.DrawFn) -> Store:
    """Up to 3 shards of up to 3 pieces; every token but BOS is unique."""
    lengths = st.lists(st.integers(1, 9), min_size=1, max_size=6)
    shards = draw(st.lists(st.lists(lengths, max_size=3), min_size=1, max_size=3).filter(any))
    token = iter(range(1, 65536))
    return Store([[[[BOS, *islice(token, n - 1)] for n in piece] for piece in shard] for shard in shards])


POLICIES = st.sampled_from(get_args(Policy))
CONTEXTS = st.integers(1, 12)
SEEDS = st.integers(0, 2**32)


def stream(
    store: Store, context: int, policy: Policy, seed: int, position: RowPosition | None = None
) -> RowStream:
    return RowStream(TokenWindows(store, BOS, context, policy, seed), context, position)  # type: ignore[arg-type]


@given(stores(), CONTEXTS, POLICIES, SEEDS)
def test_every_epoch_holds_every_document_once(store: Store, context: int, policy: Policy, seed: int) -> None:
    expected = sorted(
        t for shard in store._shards for piece in shard for document in piece for t in document[1:]
    )
    epochs: dict[int, list[int]] = {}
    for window in TokenWindows(store, BOS, context, policy, seed).windows((0, 0, 0)):  # type: ignore[arg-type]
        if window.place[0] == 2:
            break
        kept = window.tokens[window.tokens != BOS].tolist()
        epochs.setdefault(window.place[0], []).extend(kept)
    for kept in epochs.values():
        assert set(kept) <= set(expected)
        assert len(set(kept)) == len(kept)  # none doubled
        if policy != "bestfit-pad":
            assert sorted(kept) == expected  # none lost


@given(stores(), CONTEXTS, SEEDS)
def test_contiguous_rows_are_slices_of_one_stream_without_seams(
    store: Store, context: int, seed: int
) -> None:
    count = 12
    flat: list[int] = []
    for window in TokenWindows(store, BOS, context, "contiguous", seed).windows((0, 0, 0)):  # type: ignore[arg-type]
        flat += window.tokens.tolist()
        if len(flat) > count * context:
            break
    inputs, targets = stream(store, context, "contiguous", seed).take(count)
    assert inputs.ravel().tolist() == flat[: count * context]
    assert targets.ravel().tolist() == flat[1 : count * context + 1]


@given(stores(), CONTEXTS, SEEDS)
def test_bestfit_crop_rows_begin_with_bos_and_ignore_padding(store: Store, context: int, seed: int) -> None:
    rows = stream(store, context, "bestfit-crop", seed)
    inputs, targets = rows.take(20)
    assert (inputs[:, 0] == BOS).all()
    following, known = inputs[:, 1:], targets[:, :-1]
    assert ((known == following) | (known == IGNORE)).all()
    assert (following[known == IGNORE] == BOS).all()
    assert (targets == IGNORE).sum() == rows.position().padded


@given(stores(), CONTEXTS, POLICIES, SEEDS, st.integers(0, 15), st.integers(0, 15))
def test_a_position_resumes_exactly(
    store: Store, context: int, policy: Policy, seed: int, before: int, skipped: int
) -> None:
    whole = stream(store, context, policy, seed)
    whole.take(before)
    whole.skip(skipped)
    resumed = stream(store, context, policy, seed, whole.position())
    assert resumed.position() == whole.position()
    for ours, theirs in zip(resumed.take(10), whole.take(10), strict=True):
        assert (ours == theirs).all()
    assert resumed.position() == whole.position()


@given(stores(), CONTEXTS, POLICIES, SEEDS, st.lists(st.tuples(st.booleans(), st.integers(0, 7)), max_size=8))
def test_how_rows_are_taken_does_not_matter(
    store: Store, context: int, policy: Policy, seed: int, moves: list[tuple[bool, int]]
) -> None:
    total = sum(count for _, count in moves)
    whole, parts = stream(store, context, policy, seed), stream(store, context, policy, seed)
    inputs, targets = whole.take(total)
    row = 0
    for taken, count in moves:
        if taken:
            some_inputs, some_targets = parts.take(count)
            assert (some_inputs == inputs[row : row + count]).all()
            assert (some_targets == targets[row : row + count]).all()
        else:
            parts.skip(count)
        row += count
    assert parts.position() == whole.position()


def test_epochs_and_seeds_differ() -> None:
    token = iter(range(1, 65536))
    store = Store([[[[BOS, *islice(token, 4)] for _ in range(20)]] for _ in range(3)])
    epoch_rows = 3 * 20 * 5 // 10
    first = stream(store, 10, "contiguous", 0).take(2 * epoch_rows)[0]
    assert sorted(first[:epoch_rows].ravel()) == sorted(first[epoch_rows:].ravel())
    assert (first[:epoch_rows] != first[epoch_rows:]).any()
    assert (first != stream(store, 10, "contiguous", 1).take(2 * epoch_rows)[0]).any()


@st.composite
def conversations(draw: st.DrawFn) -> RenderedConversations:
    """Ids (unique but for BOS), masks with a target early on, offsets."""
    masks = draw(st.lists(st.lists(st.booleans(), min_size=0, max_size=8), min_size=1, max_size=20))
    masks = [[False, True, *mask] for mask in masks]
    token = iter(range(1, 65536))
    ids = [[BOS, *islice(token, len(mask) - 1)] for mask in masks]
    offsets = np.cumsum([0, *map(len, ids)])
    return RenderedConversations(np.concatenate(ids).astype(np.uint16), np.concatenate(masks), offsets)


@given(conversations(), CONTEXTS, SEEDS)
def test_conversation_rows_target_what_is_learnt_and_nothing_else(
    data: RenderedConversations, context: int, seed: int
) -> None:
    ids, mask, offsets = data.ids, data.mask, data.offsets
    source = ConversationWindows(data, BOS, context, seed)
    rows = RowStream(source, context)
    kept = np.concatenate([np.arange(a, min(b, a + context + 1)) for a, b in pairwise(offsets)])
    learnt = sorted(ids[kept][mask[kept]])
    for _ in range(2):
        inputs, targets = rows.take(source.rows_per_epoch)
        assert (targets != IGNORE).any(axis=1).all()  # every row teaches something
        assert sorted(targets[targets != IGNORE]) == learnt
        pairs = (targets[:, :-1] == inputs[:, 1:]) | (targets[:, :-1] == IGNORE)
        assert pairs.all()
    position = rows.position()
    assert rows.report(position).epochs == 2
    assert position.dropped == 2 * (len(ids) - len(kept))
    assert position.padded == 2 * (source.rows_per_epoch * (context + 1) - len(kept))
    resumed = RowStream(source, context, position)
    assert (resumed.take(3)[0] == rows.take(3)[0]).all()
