"""How far an answer's hidden state lies from those of texts that were fitted on.

The distances are lm-polygraph's, but for the covariance, which is solved by its Cholesky factor in
float64, where lm-polygraph inverts a matrix of float32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np

from conf_server.uncertainty.estimate import Estimate, estimate
from conf_server.uncertainty.evidence import (
    Evidence,
    answer_logprobs,
    fitted_state,
)
from conf_server.uncertainty.fitted import (
    Floats,
    Gaussian,
    KernelDensity,
    RankedGaussian,
    RelativeGaussian,
)

_BLOCK: Final = 64
"""Rows that are solved at once; numpy has no triangular solver."""


def distances(gaussian: Gaussian, states: Floats) -> Floats:
    """Mahalanobis distances sqrt((x - mean)' S^-1 (x - mean)), S the covariance.

    Args:
        states: (n, d).

    Returns:
        (n,) float64, at least 0.
    """
    centred = np.asarray(states, np.float64) - gaussian.mean
    return np.linalg.norm(_solved(gaussian.factor, centred.T), axis=0)


def _solved(factor: Floats, right: Floats) -> Floats:
    """Forward substitution: factor^-1 @ right, of shapes (d, d) and (d, n)."""
    found = np.empty_like(right)
    for start in range(0, len(right), _BLOCK):
        rows = slice(start, start + _BLOCK)
        rest = right[rows] - factor[rows, :start] @ found[:start]
        found[rows] = np.linalg.solve(factor[rows, rows], rest)
    return found


def radial_basis(states: Floats, support: Floats, gamma: float) -> Floats:
    """exp(-gamma |x - y|^2) of all x in states (n, d) and y in support (m, d): (n, m)."""
    states, support = np.asarray(states, np.float64), np.asarray(support, np.float64)
    squares = (states**2).sum(axis=1)[:, None] + (support**2).sum(axis=1)
    kernel: Floats = np.exp(-gamma * np.maximum(squares - 2 * states @ support.T, 0))
    return kernel


def components(density: KernelDensity, states: Floats) -> Floats:
    """What the kernel PCA makes of states (n, d): (n, r). sklearn's KernelPCA.transform."""
    kernel = radial_basis(states, density.support.astype(np.float64), density.gamma)
    centred = kernel - density.row_means - kernel.mean(axis=1, keepdims=True) + density.mean
    return centred @ density.projection


def mahalanobis_distance(name: str) -> Callable[[Evidence], Estimate]:
    """The distance to the texts that were fitted on; higher = farther.

    arXiv 1807.03888 for one class, as lm-polygraph's MahalanobisDistanceSeq.
    """

    def compute(evidence: Evidence) -> Estimate:
        method, state = fitted_state(evidence, name)
        return estimate(_one(method.learned, state), **method.about)

    return compute


def relative_mahalanobis_distance(name: str) -> Callable[[Evidence], Estimate]:
    """The distance to the texts that were fitted on, less that to the background.

    arXiv 2106.09022 and 2209.15558, as lm-polygraph's RelativeMahalanobisDistanceSeq: distances,
    and not their squares, are subtracted. Higher = nearer to the background than to the texts.
    """

    def compute(evidence: Evidence) -> Estimate:
        method, state = fitted_state(evidence, name)
        learned = method.learned
        assert isinstance(learned, RelativeGaussian)
        difference = _one(learned.own, state) - _one(learned.background, state)
        return estimate(difference, **method.about)

    return compute


def rde(name: str) -> Callable[[Evidence], Estimate]:
    """Robust density estimation: the squared distance in the space of a kernel PCA.

    arXiv 2203.01677, as lm-polygraph's RDESeq. Higher = farther.
    """

    def compute(evidence: Evidence) -> Estimate:
        method, state = fitted_state(evidence, name)
        learned = method.learned
        assert isinstance(learned, KernelDensity)
        distance = _one(learned.robust, components(learned, state[None])[0])
        return estimate(distance**2, **method.about)

    return compute


def ppl_md(name: str) -> Callable[[Evidence], Estimate]:
    """The mean of two ranks, 0 to 1: of the answer's perplexity and of its distance.

    A rank is the share of the fitted values that are not above the answer's. arXiv 2209.15558
    (section 3), as lm-polygraph's PPLMDSeq.
    """

    def compute(evidence: Evidence) -> Estimate:
        method, state = fitted_state(evidence, name)
        learned = method.learned
        assert isinstance(learned, RankedGaussian)
        surprise = -float(answer_logprobs(evidence).mean())
        ranks = (
            np.mean(learned.negative_mean_logprobs <= surprise),
            np.mean(learned.distances <= _one(learned.own, state)),
        )
        return estimate(float(np.mean(ranks)), **method.about)

    return compute


def _one(gaussian: Any, state: Floats) -> float:
    return float(distances(gaussian, state[None])[0])
