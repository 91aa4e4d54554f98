"""Rows stay contiguous, every request runs eventually, and no step exceeds its limit."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat.infer.request import Request
from nanochat.infer.sampler import SamplingParams
from nanochat.infer.scheduler import Scheduler


@pytest.fixture(scope="module")
def new_request(tokenizer):
    def make(request_id: int, length: int, new_tokens: int = 4) -> Request:
        return Request(
            request_id, [1] * length, SamplingParams(max_new_tokens=new_tokens), tokenizer, (), 1000
        )

    return make


def test_newcomers_run_together_as_far_as_the_budget_of_padded_tokens_goes(new_request):
    scheduler = Scheduler(max_rows=8, prefill_tokens=30)
    for request_id, length in enumerate([10, 4, 10, 3, 40, 2]):
        scheduler.add(new_request(request_id, length))
    steps = [scheduler.schedule() for _ in range(4)]
    assert [(first, [r.id for r in requests]) for first, requests in steps] == [
        (0, [0, 1, 2]),
        (3, [3]),  # with the next one it would be 2 x 40
        (4, [4]),  # longer than the budget: alone
        (5, [5]),
    ]
    first, requests = scheduler.schedule()
    assert (first, len(requests)) == (0, 6)


def test_the_last_row_moves_into_the_gap(new_request):
    scheduler = Scheduler(max_rows=4, prefill_tokens=100)
    a, b, c, waiting = (new_request(i, 2) for i in range(4))
    for request in (a, b, c):
        scheduler.add(request)
    scheduler.schedule()
    scheduler.add(waiting)
    assert scheduler.remove(waiting) is None
    assert scheduler.remove(a) == (2, 0)
    assert scheduler.schedule() == (0, [c, b])
    assert scheduler.remove(b) is None
    assert scheduler.find(c.id) is c
    assert scheduler.remove(c) is None
    assert not scheduler.busy
    assert scheduler.schedule().requests == []
    assert scheduler.find(c.id) is None


@given(
    st.lists(st.tuples(st.integers(1, 40), st.integers(1, 6), st.integers(0, 10)), min_size=1, max_size=25),
    st.integers(1, 5),
    st.integers(1, 60),
)
def test_every_request_is_answered_in_any_order_of_arrival(new_request, arrivals, max_rows, budget):
    """A list plays the cache: after every move row i must hold the request that runs in row i."""
    scheduler = Scheduler(max_rows, budget)
    cache: list[Request | None] = [None] * max_rows
    steps = Counter()
    coming = [(at, new_request(i, length, new)) for i, (length, new, at) in enumerate(arrivals)]
    now = 0
    while coming or scheduler.busy:
        for arrival in [c for c in coming if c[0] <= now]:
            scheduler.add(arrival[1])
            coming.remove(arrival)
        first, requests = scheduler.schedule()
        widths = [len(r.pending) for r in requests]
        assert len(requests) <= max_rows
        assert len(requests) <= 1 or max(widths) == 1 or max(widths) * len(widths) <= budget
        finished = []
        for row, request in enumerate(requests, start=first):
            if request.cached == 0:
                cache[row] = request
            assert cache[row] is request
            steps[request.id] += 1
            if request.accept(65).finished:
                finished.append(request)
        for request in reversed(finished):
            if move := scheduler.remove(request):
                cache[move[1]] = cache[move[0]]
        now += 1
    assert steps == {i: new for i, (_, new, _) in enumerate(arrivals)}
