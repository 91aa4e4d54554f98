"""How sure a score is: 95 % intervals of accuracies, standard errors of their means, paired comparisons.

All are about the items: what would change if a benchmark had drawn other items of the same kind. Every bootstrap draw
is seeded, so that the same answers give the same interval.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

LEVEL = 0.95
"""Of the intervals; a p below 1 - LEVEL is significant."""
_Z = 1.959964
"""The standard normal's quantile that leaves LEVEL between it and its negative."""
_DRAWS = 10_000
_SEED = 0

Judgement = Literal["better", "worse", "noise"]


@dataclass(frozen=True)
class Interval:
    """A 95 % interval."""

    low: float
    high: float


@dataclass(frozen=True)
class Pairs:
    """Two models' answers to the same items: how many only the first, only the second, both or neither had right."""

    only_first: int
    only_second: int
    same: int

    @property
    def n(self) -> int:
        """The number of items."""
        return self.only_first + self.only_second + self.same

    @property
    def difference(self) -> float:
        """The second's accuracy less the first's."""
        return (self.only_second - self.only_first) / self.n


def pairs_of(first: Sequence[bool], second: Sequence[bool]) -> Pairs:
    """The counts of two models' answers, which must be to the same items in the same order."""
    only_first = sum(a and not b for a, b in zip(first, second, strict=True))
    only_second = sum(b and not a for a, b in zip(first, second, strict=True))
    return Pairs(only_first, only_second, len(first) - only_first - only_second)


def accuracy_interval(right: int, n: int) -> Interval:
    """Wilson's score interval, which has a width even if all are right (J. Am. Stat. Assoc. 22, 1927)."""
    share, weight = right / n, _Z**2 / n
    middle = (share + weight / 2) / (1 + weight)
    reach = _Z / (1 + weight) * math.sqrt(share * (1 - share) / n + weight / (4 * n))
    low = 0.0 if right == 0 else middle - reach
    return Interval(low, 1.0 if right == n else middle + reach)


def centred(accuracy: float, baseline: float) -> float:
    """The accuracy rescaled to 0 for guessing and 1 for all right."""
    return (accuracy - baseline) / (1 - baseline)


def mean_standard_error(tasks: Sequence[tuple[int, int, float]]) -> float:
    """The standard error of the mean of centred accuracies, from each task's (right, n, baseline).

    Tasks are independent. If all items are right or all wrong, the variance is that
    of the middle of Wilson's interval, not 0.
    """
    total = 0.0
    for right, n, baseline in tasks:
        share = right / n if 0 < right < n else (right + _Z**2 / 2) / (n + _Z**2)
        total += share * (1 - share) / n / (1 - baseline) ** 2
    return math.sqrt(total) / len(tasks)


def normal_interval(mean: float, standard_error: float) -> Interval:
    """Of a mean of many items."""
    return Interval(mean - _Z * standard_error, mean + _Z * standard_error)


def difference_interval(pairs: Pairs) -> Interval:
    """Of the difference in accuracy, by bootstrap over pairs of answers."""
    return _percentiles(_differences(pairs, np.random.default_rng(_SEED)))


def mean_difference_interval(tasks: Sequence[tuple[Pairs, float]]) -> Interval:
    """Of the difference in the mean centred accuracy, from each task's (pairs, baseline).

    Bootstrap over pairs of answers within each task.
    """
    rng = np.random.default_rng(_SEED)
    drawn = [_differences(pairs, rng) / (1 - baseline) for pairs, baseline in tasks]
    return _percentiles(np.mean(drawn, axis=0))


def mcnemar(pairs: Pairs) -> float:
    """The two-sided exact p of McNemar's test: how likely so uneven a split of the differing answers is by chance."""
    differing = pairs.only_first + pairs.only_second
    fewer = min(pairs.only_first, pairs.only_second)
    tail = sum(math.comb(differing, k) for k in range(fewer + 1))
    return min(1.0, 2 * tail / 2**differing)


def mean_difference_p(tasks: Sequence[tuple[Pairs, float]]) -> float:
    """The two-sided p of the mean centred difference, from each task's (pairs, baseline).

    By randomisation: where both models are equally good, each differing answer is either one's with equal chance.
    """
    rng = np.random.default_rng(_SEED)
    observed, drawn = 0.0, np.zeros(_DRAWS)
    for pairs, baseline in tasks:
        weight = 1 / (pairs.n * (1 - baseline))
        differing = pairs.only_first + pairs.only_second
        observed += weight * (pairs.only_second - pairs.only_first)
        drawn += weight * (2 * rng.binomial(differing, 0.5, _DRAWS) - differing)
    as_far = np.abs(drawn) >= abs(observed) - 1e-12
    return float((as_far.sum() + 1) / (_DRAWS + 1))


def verdict(difference: Interval, p: float) -> Judgement:
    """What a paired difference says: noise unless the interval excludes 0 and p is significant."""
    if p >= 1 - LEVEL or difference.low <= 0 <= difference.high:
        return "noise"
    return "better" if difference.low > 0 else "worse"


def pass_at(k: int, samples: int, right: int) -> float:
    """The probability that k of these samples, drawn without replacement, hold a right one (arXiv:2107.03374)."""
    return 1 - math.comb(samples - right, k) / math.comb(samples, k)


def _differences(pairs: Pairs, rng: np.random.Generator) -> np.ndarray:
    shares = np.array([pairs.only_first, pairs.only_second, pairs.same]) / pairs.n
    counts = rng.multinomial(pairs.n, shares, _DRAWS)
    return (counts[:, 1] - counts[:, 0]) / pairs.n


def _percentiles(drawn: np.ndarray) -> Interval:
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.percentile(drawn, (tail, 100 - tail))
    return Interval(float(low), float(high))
