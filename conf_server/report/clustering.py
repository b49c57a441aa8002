"""An order of methods in which those that rank alike are neighbours. Pure numpy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def clustered_order(correlations: Floats) -> list[int]:
    """The leaves of a tree from average linkage on 1 - correlation (Sokal and Michener 1958).

    Where two clusters are joined, each may be turned around: the ends that are most alike meet.

    Args:
        correlations: (m, m) symmetric, -1 to 1; NaN counts as 0.

    Returns:
        0..m-1 in their new order.
    """
    alike = np.where(np.isnan(correlations), 0.0, correlations)
    clusters = [[leaf] for leaf in range(len(alike))]
    sums, sizes = alike.copy(), np.ones(len(alike))
    while len(clusters) > 1:
        left, right = _closest(sums, sizes)
        clusters[left] = _joined(alike, clusters[left], clusters.pop(right))
        sums[left] += sums[right]
        sums[:, left] += sums[:, right]
        sizes[left] += sizes[right]
        sums = np.delete(np.delete(sums, right, 0), right, 1)
        sizes = np.delete(sizes, right)
    return clusters[0] if clusters else []


def _closest(sums: Floats, sizes: Floats) -> tuple[int, int]:
    """The two clusters with the highest mean correlation between them, in order.

    Args:
        sums: (c, c) of the correlations between the members of two clusters.
        sizes: (c,) how many members each has.
    """
    means = np.triu(sums / np.outer(sizes, sizes), 1)
    means[np.tril_indices(len(means))] = -np.inf
    left, right = np.unravel_index(int(means.argmax()), means.shape)
    return int(left), int(right)


def _joined(alike: Floats, first: list[int], second: list[int]) -> list[int]:
    """Both in a row, turned so that the two that meet correlate the most."""
    ways = [(a, b) for a in (first, first[::-1]) for b in (second, second[::-1])]
    left, right = max(ways, key=lambda way: alike[way[0][-1], way[1][0]])
    return left + right
