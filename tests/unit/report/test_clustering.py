"""An order in which those that rank alike are neighbours."""

from __future__ import annotations

import numpy as np
import pytest

from conf_server.report.clustering import clustered_order


def test_two_groups_in_disorder() -> None:
    group = np.array([0, 1, 0, 1, 0, 1])
    alike = np.where(group[:, None] == group, 0.9, -0.2)
    np.fill_diagonal(alike, 1)
    found = group[clustered_order(alike)].tolist()
    assert found in ([0, 0, 0, 1, 1, 1], [1, 1, 1, 0, 0, 0])


def test_the_ends_that_are_most_alike_meet() -> None:
    """Points on a line keep their order, or its opposite."""
    place = np.array([3.0, 0.0, 7.0, 1.0, 5.5])
    found = place[clustered_order(1 - np.abs(place[:, None] - place) / 7)]
    assert (np.sort(found) == found).all() or (np.sort(found) == found[::-1]).all()


def test_merges_are_those_of_scipy() -> None:
    """Leaves of every cluster of scipy's average linkage stand side by side."""
    hierarchy = pytest.importorskip("scipy.cluster.hierarchy")
    rng = np.random.default_rng(4)
    alike = np.corrcoef(rng.normal(size=(12, 30)))
    order = clustered_order(alike)
    distance = (1 - alike)[np.triu_indices(12, 1)]
    clusters = [[leaf] for leaf in range(12)]
    for left, right, *_ in hierarchy.linkage(distance, "average"):
        clusters.append([*clusters[int(left)], *clusters[int(right)]])
        places = sorted(order.index(leaf) for leaf in clusters[-1])
        assert places == list(range(places[0], places[0] + len(places)))


@pytest.mark.parametrize("count", [0, 1])
def test_nothing_to_sort(count: int) -> None:
    assert clustered_order(np.ones((count, count))) == list(range(count))


def test_undefined_correlations_are_none() -> None:
    alike = np.array([[1, np.nan, 0.9], [np.nan, 1, np.nan], [0.9, np.nan, 1]])
    assert sorted(clustered_order(alike)) == [0, 1, 2]
