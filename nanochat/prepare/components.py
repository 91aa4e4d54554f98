"""Which documents belong together, and which of them stays: the first in the order of input."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Keys = npt.NDArray[np.int64]


def later_copies(pairs: Keys) -> Keys:
    """All keys of `pairs` (shape N, 2) but the least one of each connected component, sorted.

    Every round takes over the lowest label of both neighbours and of their labels, and halves the paths: a
    component settles in about log2 of its size (Zhang et al. 2020, FastSV, arXiv 1910.05971).
    """
    keys, places = np.unique(pairs, return_inverse=True)
    left, right = places.reshape(-1, 2).T
    label = np.arange(len(keys))
    while True:
        lowest = np.minimum(label[left], label[right])
        lower = label.copy()
        for ends in (left, right, label[left], label[right]):
            np.minimum.at(lower, ends, lowest)
        lower = lower[lower]
        if np.array_equal(lower, label):
            return keys[label != np.arange(len(keys))]
        label = lower
