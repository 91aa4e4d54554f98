"""Rows stay contiguous and hold what the scheduler says, every request runs eventually, no step exceeds its limit."""

import math
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat.infer.request import Request
from nanochat.infer.sampler import SamplingParams
from nanochat.infer.scheduler import MIN_SHARED, Copy, EngineStep, PrefillLimit, Scheduler, Swap, shared


@pytest.fixture(scope="module")
def new_request(tokenizer):
    def make(request_id: int, prompt: Sequence[int], new_tokens: int = 4) -> Request:
        return Request(request_id, prompt, SamplingParams(max_new_tokens=new_tokens), tokenizer, (), 1000)

    return make


def pieces_of(step: EngineStep) -> list[tuple[int, int]]:
    return [(chunk.request.id, chunk.count) for chunk in step.chunks]


def run(step: EngineStep) -> None:
    """What the engine does with a step: every request whose tokens have all run gets one more."""
    for _, request in step.decoding:
        request.accept(65)
    for chunk in step.chunks:
        complete = chunk.count == chunk.request.remaining
        chunk.request.cached += chunk.count
        if complete:
            chunk.request.accept(65)


def test_prompts_run_together_and_in_pieces_as_the_limit_of_padded_tokens_allows(new_request):
    scheduler = Scheduler(max_rows=8, prefill=PrefillLimit(30, 30))
    for request_id, length in enumerate([10, 4, 10, 3, 40, 2]):
        scheduler.add(new_request(request_id, [request_id] * length, new_tokens=50))
    steps = []
    for _ in range(5):
        step = scheduler.schedule()
        steps.append((len(step.decoding), pieces_of(step)))
        run(step)
    assert steps == [
        (0, [(0, 10), (1, 4), (2, 10)]),
        (3, [(3, 3)]),  # with the next one it would be 2 x 30
        (4, [(4, 30)]),
        (4, [(4, 10), (5, 2)]),
        (6, []),
    ]


def test_the_last_row_fills_the_gap_and_the_finished_one_is_parked(new_request):
    scheduler = Scheduler(max_rows=4, prefill=PrefillLimit(100, 100))
    a, b, c, waiting = (new_request(i, [i, i]) for i in range(4))
    for request in (a, b, c):
        scheduler.add(request)
    run(scheduler.schedule())
    scheduler.add(waiting)
    assert scheduler.remove(waiting) is None
    assert scheduler.remove(a) == Swap(0, 2, 2)
    assert scheduler.schedule() == EngineStep([], [(0, c), (1, b)], [])
    assert scheduler.remove(b) is None
    assert scheduler.find(c.id) is c
    assert scheduler.remove(c) is None
    assert not scheduler.busy
    assert scheduler.schedule() == EngineStep([], [], [])
    assert scheduler.find(c.id) is None


def test_a_request_waits_for_a_prefix_that_is_about_to_be_computed_and_copies_it(new_request):
    scheduler = Scheduler(max_rows=4, prefill=PrefillLimit(16, 16))
    scheduler.add(new_request(0, [7] * 20))
    scheduler.add(new_request(1, [*[7] * 20, 8]))
    first = scheduler.schedule()
    assert pieces_of(first) == [(0, 16)]
    run(first)
    second = scheduler.schedule()  # 4 tokens more are not worth waiting for
    assert second.moves == [Copy(0, 1, 16)]
    assert pieces_of(second) == [(0, 4), (1, 5)]


def test_a_parked_row_is_taken_over_by_the_request_that_begins_alike(new_request):
    scheduler = Scheduler(max_rows=3, prefill=PrefillLimit(100, 100))
    first, second = new_request(0, [1] * 20), new_request(1, [2] * 20)
    for request in (first, second):
        scheduler.add(request)
    run(scheduler.schedule())
    scheduler.remove(first)
    scheduler.remove(second)
    third = new_request(2, [*[1] * 20, 65, 3])
    scheduler.add(third)
    assert scheduler.schedule().moves == [Swap(0, 1, 20)]
    assert third.tokens[third.cached :] == [65, 3]
    scheduler.remove(third)
    scheduler.forget()
    scheduler.add(again := new_request(3, [1] * 20))
    assert pieces_of(scheduler.schedule()) == [(3, 20)]
    assert again.cached == 0


@given(
    st.lists(
        st.tuples(st.integers(1, 40), st.integers(0, 40), st.integers(1, 6), st.integers(0, 10)),
        min_size=1,
        max_size=12,
    ),
    st.integers(1, 5),
    st.integers(1, 60),
)
def test_every_request_is_answered_in_any_order_of_arrival(new_request, arrivals, max_rows, limit):
    """Lists play the cache: before it runs, each request's row must hold its cached tokens."""
    scheduler = Scheduler(max_rows, PrefillLimit(limit, limit))
    cache: list[list[int]] = [[] for _ in range(max_rows)]
    answered: Counter[int] = Counter()
    coming = [
        (at, new_request(i, ([1] * ones + [2] * twos)[:40], new))
        for i, (ones, twos, new, at) in enumerate(arrivals)
    ]
    now = 0

    def move(moved: Swap | Copy | None) -> None:
        if isinstance(moved, Copy):
            cache[moved.destination] = cache[moved.source][: moved.length]
        elif moved is not None:
            a, b = cache[moved.a][: moved.length], cache[moved.b][: moved.length]
            cache[moved.a], cache[moved.b] = b, a

    while coming or scheduler.busy:
        assert now < 1000
        for arrival in [c for c in coming if c[0] <= now]:
            scheduler.add(arrival[1])
            coming.remove(arrival)
        step = scheduler.schedule()
        for moved in step.moves:
            move(moved)
        widths = [chunk.count for chunk in step.chunks]
        assert len(widths) * max(widths, default=0) <= limit
        parts = [
            *((row, r, 1) for row, r in step.decoding),
            *((p.row, p.request, p.count) for p in step.chunks),
        ]
        assert len({row for row, _, _ in parts}) == len(parts) <= max_rows
        assert parts or not scheduler.busy
        for row, request, count in parts:
            assert cache[row][: request.cached] == request.tokens[: request.cached]
            cache[row] = request.tokens[: request.cached + count]
        run(step)
        for _, request, _ in parts:
            if request.finished:
                answered[request.id] = len(request.completion().ids)
                move(scheduler.remove(request))
        now += 1
    assert answered == {i: new for i, (_, _, new, _) in enumerate(arrivals)}


def test_impossible_limits_are_refused():
    with pytest.raises(ValueError, match="at least 1 row"):
        Scheduler(0, PrefillLimit(1, 1))
    with pytest.raises(ValueError, match="at least 1 prompt token"):
        PrefillLimit(16, 0)


def test_running_requests_limit_what_a_prompt_may_run_beside_them(new_request):
    limit = PrefillLimit(alone=256, beside=16)
    assert [limit.tokens(decoding) for decoding in (0, 1, 8, 9, 100, 500)] == [256, 16, 16, 18, 200, 256]
    scheduler = Scheduler(max_rows=4, prefill=limit)
    first = new_request(0, [5] * 40)
    scheduler.add(first)
    step = scheduler.schedule()
    assert pieces_of(step) == [(0, 40)]
    run(step)
    scheduler.add(new_request(1, [6] * 40))
    planned = scheduler.schedule()
    assert [request.id for _, request in planned.decoding] == [0]
    assert pieces_of(planned) == [(1, 16)]
    allowed = [pieces_of(scheduler.schedule(prompt_tokens=most)) for most in (3, 30.5, math.inf)]
    assert allowed == [[(1, 16)], [(1, 30)], [(1, 40)]]


@given(
    st.integers(0, 12),
    st.lists(st.integers(1, 3), min_size=1, max_size=20),
    st.lists(st.integers(1, 3), max_size=20),
)
def test_what_is_shared_is_the_common_prefix_without_the_last_token_unless_too_short(
    new_request, same, prompt, cached
):
    prompt, cached = [5] * same + prompt, [5] * same + cached
    common = 0
    while common < min(len(prompt) - 1, len(cached)) and prompt[common] == cached[common]:
        common += 1
    assert shared(new_request(0, prompt), cached) == (common if common >= MIN_SHARED else 0)
