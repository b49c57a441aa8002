"""The reference's dominant tokens, and what an engine may make of them that rounds. Pure numpy.

Two thresholds decide which tokens are dominant (`TokenStatistic.LOG_DOMINANT_MASS`), so that the
smallest difference in a log-probability can change both statistics by much. An engine is right
where its values are those of tokens that are dominant after so small a difference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from conf_server.stats.columns import MAX_DOMINANT, MIN_DROP, MIN_LOG_DROP, MIN_RELATIVE_DROP

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class DominantTokens:
    """What is so where the likeliest i tokens are dominant, of n rows and i = 0 ... c-1.

    Attributes:
        values: (n, c, 2) LOG_DOMINANT_MASS and DOMINANT_LOGPROB, nats.
        efforts: (n, c) the least by which a log-probability must differ for it to be so, nats;
            0 for the i that the reference says.
    """

    values: Floats
    efforts: Floats

    @classmethod
    def of(cls, best: Floats) -> DominantTokens:
        """
        Args:
            best: (n, c) the largest log-probabilities, descending, c >= 2: all of the
                vocabulary, or `MAX_DOMINANT` + 1.
        """
        nobody = np.full((len(best), 1), np.inf)
        with np.errstate(divide="ignore"):
            masses = np.log(np.exp(best).cumsum(axis=1))
        values = np.stack(
            (
                np.concatenate((-nobody, masses[:, :-1]), axis=1),
                np.concatenate((nobody, best[:, :-1]), axis=1),
            ),
            axis=2,
        )
        return cls(values, _efforts(_slack(best[:, :-1], best[:, 1:])))

    @classmethod
    def joined(cls, blocks: Sequence[DominantTokens]) -> DominantTokens:
        """The rows of all blocks."""
        return cls(
            np.concatenate([block.values for block in blocks]),
            np.concatenate([block.efforts for block in blocks]),
        )

    def distances(self, engine: NDArray) -> Floats:
        """(n, 2): the least by which a log-probability must differ for the engine's values.

        Args:
            engine: (n, 2) as `values`, nats.
        """
        with np.errstate(invalid="ignore"):
            apart = np.abs(engine[:, None].astype(np.float64) - self.values)
        apart = np.where(engine[:, None] == self.values, 0.0, apart)
        apart = np.where(np.isnan(apart), np.inf, apart)
        return np.maximum(apart, self.efforts[:, :, None]).min(axis=1)


def dominant_statistics(best: Floats) -> Floats:
    """(n, 2): LOG_DOMINANT_MASS and DOMINANT_LOGPROB by their definition, nats.

    Args:
        best: as for `DominantTokens.of`.
    """
    p = np.exp(best)
    drop = p[:, :-1] - p[:, 1:]
    is_last = drop > np.maximum(MIN_DROP, MIN_RELATIVE_DROP * p[:, :-1])
    counts = np.where(is_last, np.arange(1, p.shape[1]), 0).max(axis=1)
    return DominantTokens.of(best).values[np.arange(len(best)), counts]


def _slack(upper: Floats, lower: Floats) -> Floats:
    """How far log-probabilities may be off without the dominant tokens no longer ending here.

    Args:
        upper, lower: log-probabilities of a token and of the next.

    Returns:
        Nats; negative where they do not end here, and how far off they must be for that.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        # The two move towards each other.
        relative = (upper - lower - MIN_LOG_DROP) / 2
        # p_upper exp(-d) - p_lower exp(d) = MIN_DROP, solved for d.
        a, b = np.exp(upper), np.exp(lower)
        absolute = -np.log((MIN_DROP + np.sqrt(MIN_DROP**2 + 4 * a * b)) / (2 * a))
    return np.where(a == 0, -np.inf, np.minimum(relative, absolute))


def _efforts(slack: Floats) -> Floats:
    """(n, c) of the (n, c-1) slacks after each but the last token.

    So that the first i are dominant, they have to end after the i-th and nowhere later.
    """
    nothing = np.zeros((len(slack), 1))
    make = np.concatenate((nothing, np.maximum(-slack, 0.0)), axis=1)
    unmake = np.concatenate((np.maximum(slack, 0.0), nothing), axis=1)
    later = np.maximum.accumulate(unmake[:, ::-1], axis=1)[:, ::-1]
    return np.maximum(make, later)


def most_kept(vocab_size: int) -> int:
    """How many of the largest log-probabilities the functions here have to be given."""
    return min(vocab_size, MAX_DOMINANT + 1)
