import importlib.util
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import get_args

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nanochat.batches.packing import BOS_SEGMENT, PAD_SEGMENT, Plan, Policy, plan_rows
from nanochat.text.readers import read_documents

LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=60)
CONTEXTS = st.integers(1, 17)


def make(lengths: list[int], context: int, policy: Policy, seed: int = 0) -> Plan:
    return plan_rows(np.array(lengths), context, policy, np.random.default_rng(seed))


def stream(planned: Plan) -> list[tuple[int, int]]:
    """Every token of the stream, as (document, position)."""
    columns = zip(planned.document.tolist(), planned.start.tolist(), planned.length.tolist(), strict=True)
    return [(document, start + i) for document, start, length in columns for i in range(length)]


def rows(planned: Plan, context: int) -> list[list[tuple[int, int]]]:
    return [
        [(document, start + i) for document, start, length in row for i in range(length)]
        for row in planned.rows(context)
    ]


def every_token(lengths: list[int]) -> list[tuple[int, int]]:
    return [(document, position) for document, length in enumerate(lengths) for position in range(length)]


def real(tokens: list[tuple[int, int]]) -> list[tuple[int, int]]:
    return [token for token in tokens if token[0] >= 0]


@given(LENGTHS, CONTEXTS)
def test_contiguous_places_every_token_once(lengths: list[int], context: int) -> None:
    planned = make(lengths, context, "contiguous")
    assert sorted(stream(planned)) == every_token(lengths)
    assert planned.row_dropped.sum() == planned.row_padded.sum() == planned.inserted == planned.cuts == 0


@given(LENGTHS, CONTEXTS)
def test_contiguous_predicts_every_token_of_its_rows_once(lengths: list[int], context: int) -> None:
    planned = make(lengths, context, "contiguous")
    laid = rows(planned, context)
    targets = [token for row in laid for token in row[1:]]
    assert targets == stream(planned)[1 : len(targets) + 1]
    assert sum(lengths) - 1 - len(targets) < context  # what is left is too little for a row
    for row, following in pairwise(laid):
        assert following[0] == row[-1]  # the last target is the next row's first input


@given(LENGTHS, CONTEXTS, st.sampled_from(["bestfit-crop", "bestfit-pad"]))
@example([5, 5, 5], 4, "bestfit-crop")
@example([1, 1, 1], 1, "bestfit-crop")
def test_bestfit_rows_are_full_and_begin_with_bos(lengths: list[int], context: int, policy: Policy) -> None:
    planned = make(lengths, context, policy)
    laid = rows(planned, context)
    assert len(stream(planned)) == len(laid) * (context + 1) == len(laid) * planned.stride
    assert len(planned.row_padded) == len(planned.row_dropped) == len(laid)
    for row, padded in zip(laid, planned.row_padded.tolist(), strict=True):
        assert len(row) == context + 1
        assert row[0] == (BOS_SEGMENT, 0) or row[0][1] == 0  # a document's first token is BOS
        assert sum(document == PAD_SEGMENT for document, _ in row) == padded < context + 1


@given(LENGTHS, CONTEXTS)
def test_bestfit_crop_uses_every_token_once(lengths: list[int], context: int) -> None:
    planned = make(lengths, context, "bestfit-crop")
    assert sorted(real(stream(planned))) == every_token(lengths)
    assert planned.row_dropped.sum() == 0
    assert planned.row_padded.sum() <= context  # the last row's


@given(LENGTHS, CONTEXTS)
def test_bestfit_crop_puts_bos_before_every_rest_and_cuts_only_at_row_ends(
    lengths: list[int], context: int
) -> None:
    for row in make(lengths, context, "bestfit-crop").rows(context):
        for place, (document, start, length) in enumerate(row):
            if document >= 0 and start > 0:
                assert row[place - 1] == (BOS_SEGMENT, 0, 1)
            if document >= 0 and start + length < lengths[document]:
                assert place == len(row) - 1  # cut parts end their row


@given(LENGTHS, CONTEXTS)
def test_bestfit_pad_never_cuts_what_fits_and_truncates_the_rest(lengths: list[int], context: int) -> None:
    planned = make(lengths, context, "bestfit-pad")
    segments = sorted(
        zip(planned.document.tolist(), planned.start.tolist(), planned.length.tolist(), strict=True)
    )
    whole = [segment for segment in segments if segment[0] >= 0]
    assert whole == [(document, 0, min(length, context + 1)) for document, length in enumerate(lengths)]
    assert planned.row_dropped.sum() == sum(max(length - context - 1, 0) for length in lengths)
    assert planned.inserted == 0


@given(LENGTHS, CONTEXTS, st.integers(0, 5))
def test_bestfit_pad_makes_the_same_number_of_rows_in_every_order(
    lengths: list[int], context: int, seed: int
) -> None:
    count = len(make(lengths, context, "bestfit-pad").row_padded)
    assert len(make(lengths, context, "bestfit-pad", seed).row_padded) == count


@given(LENGTHS, CONTEXTS, st.sampled_from(get_args(Policy)))
def test_a_plan_depends_on_the_seed_alone(lengths: list[int], context: int, policy: Policy) -> None:
    first, again = make(lengths, context, policy, 3), make(lengths, context, policy, 3)
    assert stream(first) == stream(again)


def test_another_seed_gives_another_order() -> None:
    lengths = list(range(1, 200))
    for policy in get_args(Policy):
        assert stream(make(lengths, 64, policy, 0)) != stream(make(lengths, 64, policy, 1))


def test_unknown_policy() -> None:
    with pytest.raises(ValueError, match=r"unknown packing policy 'tight'.*contiguous"):
        make([3], 4, "tight")  # type: ignore[arg-type]


def test_no_documents_make_no_rows() -> None:
    for policy in get_args(Policy):
        assert rows(make([], 8, policy), 8) == []


def load_bench(name: str) -> ModuleType:
    path = Path(__file__).parents[2] / "bench" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"bench_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_bestfit_crop_discards_at_most_half_of_what_the_greedy_packer_does(shared_data: Path) -> None:
    context = 2048
    files = sorted((shared_data / "corpus").glob("*.parquet"))
    lengths = [len(text) // 4 + 1 for file in files for text in read_documents(file)]  # about 4 bytes a token
    _, used, discarded, _ = load_bench("packing").greedy(lengths, context)
    assert discarded > 0.05 * used
    planned = make(lengths, context, "bestfit-crop")
    laid = planned.length[planned.document >= 0].sum()
    assert laid == sum(lengths)  # nothing is discarded at all
    assert planned.inserted + planned.row_padded.sum() < 0.01 * laid
