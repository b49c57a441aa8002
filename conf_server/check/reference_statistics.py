"""The reference's token statistics, and how far the engine's are from them. Pure numpy."""

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
    """What the reference says of n rows.

    Attributes:
        values: (n, s) float64, columns as in `TokenStatistic`, nats.
        sensitivities: (n, s) float64, how far each may move where no log-probability of its
            row moves by more than 1 nat: see `sensitivities`.
        dominant: what the `DOMINANT` columns may be instead, and at what price.
    """

    values: Floats
    sensitivities: Floats
    dominant: DominantTokens


@dataclass(frozen=True)
class StatisticDifference:
    """One column of token statistics, engine against reference.

    A token's difference is the least by which a log-probability of its row must be wrong for
    the statistic to be so wrong: |engine - reference| / sensitivity, and for the `DOMINANT`
    columns `DominantTokens.distances`.

    Attributes:
        name: the column's, in lower case.
        mean: mean over the tokens, nats; inf where a value is no number.
        max: the largest of them.
    """

    name: str
    mean: float
    max: float


def reference_statistics(logprobs: Floats, top_k: int) -> ReferenceStatistics:
    """`TokenStatistic`'s columns by their definitions.

    Args:
        logprobs: (n, V), nats, V >= 2; -inf is p = 0.
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
    """(n, s): the most that a statistic moves for each nat that log-probabilities move by.

    Let no log p of a row move by more than d. Then move by no more than
      - d: the largest log p, the second largest, and means of log p: confidence, mean_logprob;
        also the dominant tokens' statistics while the same number of tokens is dominant;
      - d/2 and d/4: log sum p^(1/2) and log sum p^(1/4), whose derivatives by log p are
        non-negative and add up to 1/2 and 1/4;
      - d E|log p + H|: the entropy H, to first order, as dH = -sum p (log p + H) dlog p.
    A row that is all but certain has no such deviation, and rounding all the same: the
    entropy's is at least that of a log-probability, 1.

    Args:
        deviation: (n,) E|log p + H| of each row, nats.
    """
    out = np.ones((len(deviation), NUM_TOKEN_STATISTICS))
    out[:, TokenStatistic.LOG_SUM_P_HALF] = 1 / 2
    out[:, TokenStatistic.LOG_SUM_P_QUARTER] = 1 / 4
    out[:, TokenStatistic.ENTROPY] = np.maximum(deviation, 1.0)
    return out


def compare_statistics(
    engine: NDArray, reference: ReferenceStatistics
) -> tuple[StatisticDifference, ...]:
    """One for each column, over n >= 1 tokens.

    Args:
        engine: (n, s), columns as in `TokenStatistic`, nats.

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
    """|left - right|: 0 for the same infinity, inf for what cannot be subtracted."""
    left, right = left.astype(np.float64), right.astype(np.float64)
    with np.errstate(invalid="ignore"):
        apart = np.where(left == right, 0.0, np.abs(left - right))
    return np.where(np.isnan(apart), np.inf, apart)


def pooled_statistics(
    groups: Sequence[tuple[StatisticDifference, ...]], counts: Sequence[int]
) -> tuple[StatisticDifference, ...]:
    """As if all their tokens had been compared at once; empty where one group is."""
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
