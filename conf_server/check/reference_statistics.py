"""The reference's token statistics, and how far the engine's are from them. Numpy alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from conf_server.check.dominant_tokens import DominantTokens, dominant_statistics, most_kept
from conf_server.stats.columns import NUM_TOKEN_STATISTICS, TokenStatistic

DOMINANT: Final = [TokenStatistic.LOG_DOMINANT_MASS, TokenStatistic.DOMINANT_LOGPROB]
"""The columns that `DominantTokens` compares."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ReferenceStatistics:
    """The token statistics of n rows.

    Attributes:
        values: (n, s) float64, the columns of `TokenStatistic`, in nats.
        sensitivities: (n, s) float64, how far each value can move where no log-probability of
            its row moves by more than 1 nat. See the function `sensitivities`.
        dominant: what the `DOMINANT` columns are for other numbers of dominant tokens.
    """

    values: Floats
    sensitivities: Floats
    dominant: DominantTokens


@dataclass(frozen=True)
class StatisticDifference:
    """One column of the token statistics, the engine against the reference.

    The difference at a token is |engine - reference| / sensitivity. Some log-probability of the
    row must be wrong by at least as much for the statistic to be as wrong as it is. The
    difference in a `DOMINANT` column says the same and is `DominantTokens.distances`.

    Attributes:
        name: the column's name, in lower case.
        mean: the mean difference over the tokens, in nats; inf where a value is not a number.
        max: the largest difference, in nats.
    """

    name: str
    mean: float
    max: float


def reference_statistics(logprobs: Floats, top_k: int) -> ReferenceStatistics:
    """The columns of `TokenStatistic`, computed by their definitions.

    Args:
        logprobs: (n, V) log-probabilities in nats, V >= 2; -inf stands for p = 0.
        top_k: how many log-probabilities the confidence averages, 1 <= top_k <= V.
    """
    kept = max(top_k, most_kept(logprobs.shape[1]))
    best = -np.sort(np.partition(-logprobs, kept - 1, axis=1)[:, :kept], axis=1)
    p = np.exp(logprobs)
    surprisal = np.where(p == 0, 0.0, -logprobs)  # 0 log 0 = 0
    entropy = (p * surprisal).sum(1)
    values = np.empty((len(logprobs), NUM_TOKEN_STATISTICS))
    values[:, TokenStatistic.CONFIDENCE] = -best[:, :top_k].mean(1)
    values[:, TokenStatistic.ENTROPY] = entropy
    values[:, TokenStatistic.MEAN_LOGPROB] = logprobs.mean(1)
    values[:, TokenStatistic.LOG_SUM_P_HALF] = np.log(np.exp(logprobs / 2).sum(1))
    values[:, TokenStatistic.LOG_SUM_P_QUARTER] = np.log(np.exp(logprobs / 4).sum(1))
    values[:, TokenStatistic.LOGPROB_1ST] = best[:, 0]
    values[:, TokenStatistic.LOGPROB_2ND] = best[:, 1]
    values[:, DOMINANT] = dominant_statistics(best)
    deviation = (p * np.abs(surprisal - entropy[:, None])).sum(1)
    return ReferenceStatistics(values, sensitivities(deviation), DominantTokens.of(best))


def sensitivities(deviation: Floats) -> Floats:
    """(n, s) How far a statistic can move for each nat that log-probabilities move by.

    Let no log p of a row move by more than d. Then
      - the largest and the second largest log p, and all means of log p (confidence and
        mean_logprob), move by no more than d;
      - log sum p^(1/2) and log sum p^(1/4) move by no more than d/2 and d/4, because their
        derivatives by log p are not negative and add up to 1/2 and 1/4;
      - the entropy H moves by no more than d E|log p + H|, to first order, because
        dH = -sum p (log p + H) dlog p;
      - the mass and the least log p of the dominant tokens move by no more than d, as long as
        their number is the same. `DominantTokens` deals with other numbers.
    In a row that is almost certain E|log p + H| is almost 0, but rounding is not. The entropy's
    sensitivity is therefore at least 1, that of a log-probability.

    Args:
        deviation: (n,) E|log p + H| of each row, in nats.
    """
    out = np.ones((len(deviation), NUM_TOKEN_STATISTICS))
    out[:, TokenStatistic.LOG_SUM_P_HALF] = 1 / 2
    out[:, TokenStatistic.LOG_SUM_P_QUARTER] = 1 / 4
    out[:, TokenStatistic.ENTROPY] = np.maximum(deviation, 1.0)
    return out


def compare_statistics(
    engine: NDArray, reference: ReferenceStatistics
) -> tuple[StatisticDifference, ...]:
    """The difference of each column, over n >= 1 tokens.

    Args:
        engine: (n, s) the columns of `TokenStatistic`, in nats.

    Raises:
        ValueError: the two do not have the same shape.
    """
    if engine.shape != reference.values.shape:
        raise ValueError(f"statistics of {engine.shape} for {reference.values.shape}")
    apart = distances(engine, reference.values) / reference.sensitivities
    apart[:, DOMINANT] = reference.dominant.distances(engine[:, DOMINANT])
    return tuple(
        StatisticDifference(
            column.name.lower(), float(apart[:, column].mean()), float(apart[:, column].max())
        )
        for column in TokenStatistic
    )


def distances(left: NDArray, right: NDArray) -> Floats:
    """|left - right|. It is 0 for equal infinities, and inf where either is not a number."""
    left, right = left.astype(np.float64), right.astype(np.float64)
    with np.errstate(invalid="ignore"):
        apart = np.where(left == right, 0.0, np.abs(left - right))
    return np.where(np.isnan(apart), np.inf, apart)


def pooled_statistics(
    groups: Sequence[tuple[StatisticDifference, ...]], counts: Sequence[int]
) -> tuple[StatisticDifference, ...]:
    """The columns as if all tokens had been compared at once; empty where one group is empty."""
    if not all(groups):
        return ()
    return tuple(
        StatisticDifference(
            column[0].name,
            float(np.average([one.mean for one in column], weights=counts)),
            max(one.max for one in column),
        )
        for column in zip(*groups, strict=True)
    )
