"""Mean and covariance, read in parts, and what makes a Gaussian of them."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.covariance import LedoitWolf

from conf_server.fit.errors import FitError
from conf_server.fit.moments import Moments, gaussian
from conf_server.fit.reservoir import reservoir
from conf_server.uncertainty.methods.density import distances

WIDTH = 70
"""More than the rows that are solved at once."""


def vectors(count: int) -> NDArray[np.float32]:
    rng = np.random.default_rng(0)
    mixed = rng.normal(size=(count, WIDTH)) @ rng.normal(size=(WIDTH, WIDTH))
    return (100 + mixed).astype(np.float32)


def moments(states: NDArray[np.float32]) -> Moments:
    return Moments.of(lambda: np.array_split(states, 7))


@pytest.mark.parametrize("count", [12, 300])
def test_shrinkage_is_sklearns(count: int) -> None:
    states = vectors(count)
    found, shrinkage = gaussian(moments(states), "ledoit_wolf")
    theirs = LedoitWolf().fit(states.astype(np.float64))
    assert shrinkage == pytest.approx(theirs.shrinkage_, rel=1e-6)
    np.testing.assert_allclose(found.mean, theirs.location_)
    np.testing.assert_allclose(
        found.factor @ found.factor.T, theirs.covariance_, rtol=1e-6, atol=1e-6
    )


def test_distances_are_those_of_the_inverse() -> None:
    states = vectors(300).astype(np.float64)
    found, _ = gaussian(moments(states), "jitter")
    centred, inverse = states - states.mean(axis=0), np.linalg.inv(np.cov(states.T))
    squares = np.einsum("nd,de,ne->n", centred, inverse, centred)
    np.testing.assert_allclose(distances(found, states), np.sqrt(squares), rtol=1e-8)


def test_jitter_makes_a_factor_of_too_few_texts() -> None:
    found, jitter = gaussian(moments(vectors(12)), "jitter")
    assert 0 < jitter < 1e-6
    assert np.isfinite(distances(found, vectors(12))).all()


def test_texts_that_are_all_alike_have_no_density() -> None:
    with pytest.raises(FitError, match="different from each other"):
        gaussian(moments(np.full((5, 3), 2.0, np.float32)), "ledoit_wolf")
    with pytest.raises(FitError, match="two texts at least, there are 1"):
        moments(vectors(1))


def test_a_reservoir_keeps_a_sample_of_what_goes_by() -> None:
    assert reservoir(range(5), 9) == [0, 1, 2, 3, 4]
    kept = reservoir(range(10_000), 100)
    assert len(set(kept)) == 100
    assert kept == reservoir(range(10_000), 100)
    assert 4000 < np.mean(kept) < 6000
