"""Mean and covariance of vectors that do not fit into memory together.

The vectors are read twice, from a file: the mean is known before the covariance is begun, so that
nothing is lost to cancellation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from conf_server.fit.errors import FitError
from conf_server.uncertainty.fitted import Floats, Gaussian

Batches = Callable[[], Iterable[NDArray[Any]]]
"""Reads all vectors anew, in parts of shape (n, d)."""

Regularization = Literal["ledoit_wolf", "jitter"]

_JITTERS: Final = tuple(10.0**exponent for exponent in range(-15, 0))
"""lm-polygraph's, of which it takes the first that leaves no eigenvalue below 0."""


@dataclass(frozen=True)
class Moments:
    """What the vectors' distribution is made of.

    Attributes:
        count: n.
        mean: (d,).
        scatter: (d, d), the sum of (x - mean)(x - mean)'.
        fourth: the sum of |x - mean|^4.
    """

    count: int
    mean: Floats
    scatter: Floats
    fourth: float

    @classmethod
    def of(cls, batches: Batches) -> Moments:
        """
        Raises:
            FitError: there are fewer than two vectors.
        """
        count, total = 0, np.zeros(1)
        for batch in batches():
            count += len(batch)
            total = total + batch.sum(axis=0, dtype=np.float64)
        if count < 2:
            raise FitError(f"a covariance wants two texts at least, there are {count}")
        mean = total / count
        scatter, fourth = np.zeros((len(mean), len(mean))), 0.0
        for batch in batches():
            centred = batch.astype(np.float64) - mean
            scatter += centred.T @ centred
            fourth += float(((centred**2).sum(axis=1) ** 2).sum())
        return cls(count, mean, scatter, fourth)


def gaussian(moments: Moments, by: Regularization) -> tuple[Gaussian, float]:
    """The distribution, and the shrinkage or the jitter that its covariance was given.

    Raises:
        FitError: the covariance has no Cholesky factor: all vectors are equal.
    """
    covariance, amount = _shrunk(moments) if by == "ledoit_wolf" else _jittered(moments)
    try:
        factor: Floats = np.linalg.cholesky(covariance).astype(np.float64, copy=False)
        return Gaussian(moments.mean, factor), amount
    except np.linalg.LinAlgError as error:
        raise FitError(
            f"the hidden states of {moments.count} texts do not span a covariance: are the texts "
            "different from each other?"
        ) from error


def _shrunk(moments: Moments) -> tuple[Floats, float]:
    """Ledoit and Wolf (2004, lemma 3.1): towards a multiple of the identity; sklearn's formula."""
    n, d = moments.count, len(moments.mean)
    covariance = moments.scatter / n
    scale = np.trace(covariance) / d
    squares = float((covariance**2).sum())
    spread = (squares - d * scale**2) / d
    noise = min((moments.fourth / n - squares) / (d * n), spread)
    shrinkage = 0.0 if noise <= 0 else noise / spread
    return (1 - shrinkage) * covariance + shrinkage * scale * np.eye(d), float(shrinkage)


def _jittered(moments: Moments) -> tuple[Floats, float]:
    """lm-polygraph's: the smallest of its jitters on the diagonal that makes a factor possible."""
    covariance = moments.scatter / (moments.count - 1)
    smallest = np.linalg.eigvalsh(covariance)[0]
    identity = np.eye(len(covariance))
    for jitter in _JITTERS:
        if smallest + jitter >= 0 and _has_factor(covariance + jitter * identity):
            return covariance + jitter * identity, jitter
    return covariance, 0.0


def _has_factor(covariance: Floats) -> bool:
    try:
        np.linalg.cholesky(covariance)
    except np.linalg.LinAlgError:
        return False
    return True
