import math
from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.eval.intervals import (
    Interval,
    Pairs,
    accuracy_interval,
    difference_interval,
    mcnemar,
    mean_difference_interval,
    mean_difference_p,
    mean_standard_error,
    pairs_of,
    pass_at,
    verdict,
)

counts = st.integers(0, 40)


@given(n=st.integers(10, 400), truth=st.floats(0.02, 0.98))
def test_an_interval_covers_the_true_accuracy_as_often_as_it_says(n, truth):
    """The exact probability, near 95 % on the average of all truths; no less than 83 % for the worst of them."""
    right = np.arange(n + 1)
    log_ways = np.array(
        [math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) for k in range(n + 1)]
    )
    chance = np.exp(log_ways + right * math.log(truth) + (n - right) * math.log(1 - truth))
    intervals = [accuracy_interval(k, n) for k in range(n + 1)]
    covered = [each.low <= truth <= each.high for each in intervals]
    assert 0.83 < chance[covered].sum() < 0.9999


@given(n=st.integers(1, 500))
def test_more_right_answers_never_lower_an_interval(n):
    intervals = [accuracy_interval(right, n) for right in range(n + 1)]
    for bounds in ([each.low for each in intervals], [each.high for each in intervals]):
        assert bounds == sorted(bounds)


@given(n=st.integers(1, 500), share=st.floats(0, 1))
def test_an_interval_holds_its_accuracy(n, share):
    right = round(n * share)
    interval = accuracy_interval(right, n)
    assert 0 <= interval.low <= right / n <= interval.high <= 1


def test_all_right_and_all_wrong_still_have_a_width():
    """Wilson's interval solves |p - share| = z sqrt(p (1 - p) / n)."""
    for n in (1, 20, 300):
        none, every = accuracy_interval(0, n), accuracy_interval(n, n)
        assert 1 - every.low == pytest.approx(1.959964 * math.sqrt(every.low * (1 - every.low) / n))
        assert none.high == pytest.approx(1 - every.low)
        assert (none.low, every.high) == (0, 1)
    end = accuracy_interval(7, 20).high
    assert end - 0.35 == pytest.approx(1.959964 * math.sqrt(end * (1 - end) / 20))


def test_the_standard_error_is_the_spread_of_repeated_evaluations():
    tasks = [(30, 100, 0.25), (150, 200, 0.0), (9, 20, 0.5)]
    rng = np.random.default_rng(1)
    means = np.mean(
        [(rng.binomial(n, right / n, 40_000) / n - base) / (1 - base) for right, n, base in tasks], axis=0
    )
    assert mean_standard_error(tasks) == pytest.approx(means.std(), rel=0.02)
    assert mean_standard_error([(20, 20, 0.0)]) > 0


@given(only_first=st.integers(0, 9), only_second=st.integers(0, 9))
def test_mcnemar_counts_the_splits_at_least_as_uneven(only_first, only_second):
    differing = only_first + only_second
    seen = abs(only_first - only_second)
    splits = [abs(2 * k - differing) >= seen for k in range(differing + 1)]
    weights = [math.comb(differing, k) for k in range(differing + 1)]
    exact = sum(w for w, far in zip(weights, splits, strict=True) if far) / 2**differing
    assert mcnemar(Pairs(only_first, only_second, 5)) == pytest.approx(exact)


def test_pass_at_k_is_the_share_of_draws_with_a_right_one():
    for samples, right, k in product(range(1, 7), range(7), range(1, 7)):
        if right <= samples and k <= samples:
            draws = list(combinations([n < right for n in range(samples)], k))
            assert pass_at(k, samples, right) == pytest.approx(sum(map(any, draws)) / len(draws))


def test_pairs_count_each_combination():
    first, second = zip(*product([False, True], repeat=2), strict=True)
    pairs = pairs_of(first, second)
    assert (pairs, pairs.n, pairs.difference) == (Pairs(1, 1, 2), 4, 0.0)


@settings(max_examples=30)
@given(a=counts, b=counts, same=st.integers(1, 40))
def test_the_other_way_round_is_the_opposite(a, b, same):
    ours, theirs = Pairs(a, b, same), Pairs(b, a, same)
    assert ours.difference == -theirs.difference
    assert mcnemar(ours) == mcnemar(theirs)
    words = {"better": "worse", "worse": "better", "noise": "noise"}
    sure = [verdict(difference_interval(pairs), mcnemar(pairs)) for pairs in (ours, theirs)]
    if mcnemar(ours) < 0.01 or mcnemar(ours) > 0.2:  # between, the draws decide
        assert sure[1] == words[sure[0]]


def test_the_verdict_needs_both_the_interval_and_the_p():
    assert verdict(Interval(0.01, 0.2), 0.01) == "better"
    assert verdict(Interval(-0.2, -0.01), 0.01) == "worse"
    assert verdict(Interval(0.01, 0.2), 0.06) == "noise"
    assert verdict(Interval(-0.01, 0.2), 0.01) == "noise"
    lucky = Pairs(0, 1, 0)  # the bootstrap of one item never varies
    assert verdict(difference_interval(lucky), mcnemar(lucky)) == "noise"


def test_the_p_of_a_mean_is_mcnemars_for_one_task_and_smaller_for_more():
    for pairs in (Pairs(0, 4, 246), Pairs(2, 9, 40), Pairs(5, 5, 0)):
        assert mean_difference_p([(pairs, 0.25)]) == pytest.approx(mcnemar(pairs), abs=0.02)
    few = Pairs(0, 4, 246)  # whose interval excludes 0
    assert verdict(mean_difference_interval([(few, 0.0)]), mean_difference_p([(few, 0.0)])) == "noise"
    assert mean_difference_p([(few, 0.0)] * 3) < 0.01
    assert mean_difference_p([(few, 0.0), (Pairs(4, 0, 246), 0.0)]) == 1


def test_one_task_s_mean_difference_is_its_own():
    pairs = Pairs(3, 9, 30)
    alone, centred = difference_interval(pairs), mean_difference_interval([(pairs, 0.5)])
    assert (centred.low, centred.high) == (pytest.approx(2 * alone.low), pytest.approx(2 * alone.high))
    many = mean_difference_interval([(pairs, 0.0)] * 16)
    assert many.high - many.low < (alone.high - alone.low) / 3
