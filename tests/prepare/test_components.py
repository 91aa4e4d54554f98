import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.prepare.components import later_copies


def reference(pairs: list[tuple[int, int]]) -> list[int]:
    """Merge sets one pair at a time."""
    groups: list[set[int]] = []
    for pair in pairs:
        joined = [group for group in groups if group & set(pair)]
        groups = [group for group in groups if group not in joined] + [set(pair).union(*joined)]
    return sorted(key for group in groups for key in group - {min(group)})


@settings(max_examples=20)
@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=40), st.randoms())
def test_the_first_of_each_component_stays(pairs: list[tuple[int, int]], random) -> None:
    expected = reference(pairs)
    for _ in range(2):
        assert later_copies(np.array(pairs, np.int64).reshape(-1, 2)).tolist() == expected
        pairs = [(b, a) for a, b in random.sample(pairs, len(pairs))]


@pytest.mark.parametrize("seed", [0, 1])
def test_a_long_chain_is_one_component(seed: int) -> None:
    keys = np.random.default_rng(seed).permutation(5000) + (1 << 40)
    chain = np.stack([keys[:-1], keys[1:]], axis=1)
    assert later_copies(chain).tolist() == list(range((1 << 40) + 1, (1 << 40) + 5000))
