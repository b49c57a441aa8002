"""Learns the density of hidden states: Gaussians, ranks among them, and a robust kernel density."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from conf_server.fit.errors import FitError
from conf_server.fit.moments import Batches, Moments, Regularization, gaussian
from conf_server.fit.reservoir import SEED, reservoir
from conf_server.uncertainty.fitted import Floats, Gaussian, KernelDensity, RankedGaussian
from conf_server.uncertainty.methods.density import distances, radial_basis

HELD_OUT: Final = 0.3
"""Share of the texts whose distances are ranked among; lm-polygraph's."""

MOST_RANKS: Final = 20_000
"""Values that a rank is told from; of more, a sample of fixed seed."""

_SUPPORT_FRACTIONS: Final = (None, 0.9, 1.0)
"""Of the minimum covariance determinant, tried in this order, as lm-polygraph does."""


def ranked(
    own: Gaussian,
    batches: Batches,
    count: int,
    negative_mean_logprobs: Iterable[float],
    by: Regularization,
) -> RankedGaussian:
    """What perplexity and distance of an answer are ranked among.

    As in lm-polygraph's PPLMDSeq the distances are those of 30 % of the texts from a distribution
    of the others; the texts are those that sklearn's `train_test_split` takes with seed 42.

    Args:
        own: the distribution of all texts.
        count: of all texts.

    Raises:
        FitError: there are too few texts.
    """
    held_out = np.zeros(count, bool)
    order = np.random.RandomState(SEED).permutation(count)
    held_out[order[: math.ceil(HELD_OUT * count)]] = True
    others, _ = gaussian(Moments.of(lambda: _chosen(batches(), ~held_out)), by)
    far = [
        float(distance)
        for batch in _chosen(batches(), held_out)
        for distance in distances(others, batch.astype(np.float64))
    ]
    return RankedGaussian(
        own,
        np.sort(reservoir(negative_mean_logprobs, MOST_RANKS)),
        np.sort(reservoir(far, MOST_RANKS)),
    )


def _chosen(
    batches: Iterable[NDArray[np.float32]], chosen: NDArray[np.bool_]
) -> Iterable[NDArray[np.float32]]:
    start = 0
    for batch in batches:
        yield batch[chosen[start : start + len(batch)]]
        start += len(batch)


def kernel_density(states: NDArray[np.float32], num_components: int) -> KernelDensity:
    """Kernel PCA and minimum covariance determinant, as lm-polygraph's RDESeq fits them.

    Args:
        states: (n, d).

    Raises:
        FitError: there are too few texts for so many components.
    """
    from sklearn.covariance import MinCovDet
    from sklearn.decomposition import KernelPCA

    count = len(states)
    too_few = (
        f"{count} texts are too few for {num_components} components: give more, or fewer "
        "--rde-components"
    )
    if count < 2 * num_components:
        raise FitError(too_few)
    pca = KernelPCA(n_components=num_components, kernel="rbf", random_state=SEED)
    exact = states.astype(np.float64)
    projected = pca.fit_transform(exact)
    if pca.eigenvalues_[-1] <= 0:
        raise FitError(too_few)
    row_means = radial_basis(exact, exact, pca.gamma_).mean(axis=0)
    for fraction in _SUPPORT_FRACTIONS:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of determinants that grow by a rounding error
            try:
                robust = MinCovDet(random_state=SEED, support_fraction=fraction).fit(projected)
                factor: Floats = np.linalg.cholesky(robust.covariance_)
            except (ValueError, np.linalg.LinAlgError):
                continue
        return KernelDensity(
            support=states,
            gamma=float(pca.gamma_),
            row_means=row_means,
            mean=float(row_means.mean()),
            projection=pca.eigenvectors_ / np.sqrt(pca.eigenvalues_),
            robust=Gaussian(robust.location_, factor),
        )
    raise FitError(too_few)
