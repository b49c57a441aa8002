"""How far the engine's rows are from the reference's. It needs numpy alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from conf_server.check.reference_rows import ReferenceRows
from conf_server.check.reference_statistics import (
    StatisticDifference,
    compare_statistics,
    distances,
    pooled_statistics,
)
from conf_server.stats.trace import TraceRows


@dataclass(frozen=True)
class Difference:
    """The engine against the reference, over n tokens.

    Attributes:
        num_tokens: n.
        mean: the mean over the tokens of |log p_engine - log p_ref|, in nats. It is inf where a
            value is not a number or is infinite on one side only.
        max: the largest of these differences, in nats.
        kl: the mean over the tokens of the Kullback-Leibler divergence from the engine to the
            reference, cut off after the engine's w likeliest candidates: the sum over them of
            p_ref (log p_ref - log p_engine), in nats. Because of the cut it may be slightly
            negative. It is also near 0 where the reference gives all w candidates a small
            probability, which `coverage` tells.
        coverage: the mean over the tokens of the reference's probability of those w candidates.
        agreement: the share of the tokens where both have the same likeliest token.
        regret: the largest amount, over the tokens, by which the reference finds the engine's
            likeliest token less likely than its own, in nats. Where rounding has decided between
            two tokens that are almost equally likely it is small; a wrong choice makes it large.
        worst: the index of the token with the largest difference.
        statistics: the columns of the token statistics; empty where the engine computes none.
    """

    num_tokens: int
    mean: float
    max: float
    kl: float
    coverage: float
    agreement: float
    regret: float
    worst: int
    statistics: tuple[StatisticDifference, ...] = ()

    @property
    def worst_statistic(self) -> StatisticDifference | None:
        """The column with the largest difference at a token."""
        return max(self.statistics, key=lambda one: one.max, default=None)


def compare(engine: TraceRows, reference: ReferenceRows, sampled: bool) -> Difference | None:
    """The engine's rows against the reference's; None where there is no token to compare.

    Args:
        sampled: whether the engine generated the tokens greedily. Its likeliest token is then
            the one that it chose, which is not always the first of equally likely candidates.

    Raises:
        ValueError: the two do not have the same tokens, candidates and columns of statistics.
    """
    if reference.candidate_logprobs.shape != engine.candidate_ids.shape:
        raise ValueError(
            f"reference rows of {reference.candidate_logprobs.shape} candidates "
            f"for {engine.candidate_ids.shape}"
        )
    if not len(engine):
        return None
    apart = distances(engine.logprobs, reference.logprobs)
    best, likelihood = engine.candidate_ids[:, 0], reference.candidate_logprobs[:, 0]
    if sampled:
        best, likelihood = engine.token_ids, reference.logprobs
    mass = np.exp(reference.candidate_logprobs.astype(np.float64))
    return Difference(
        num_tokens=len(engine),
        mean=float(apart.mean()),
        max=float(apart.max()),
        kl=float(_kl_terms(engine, reference, mass).sum(1).mean()),
        coverage=float(mass.sum(1).mean()),
        agreement=float((best == reference.best_ids).mean()),
        regret=float(distances(reference.best_logprobs, likelihood).max()),
        worst=int(apart.argmax()),
        statistics=_statistics(engine, reference),
    )


def _statistics(engine: TraceRows, reference: ReferenceRows) -> tuple[StatisticDifference, ...]:
    if engine.statistics is None and reference.statistics is None:
        return ()
    if engine.statistics is None or reference.statistics is None:
        raise ValueError("statistics on one side only")
    return compare_statistics(engine.statistics, reference.statistics)


def _kl_terms(engine: TraceRows, reference: ReferenceRows, mass: NDArray) -> NDArray[np.float64]:
    ours = engine.candidate_logprobs.astype(np.float64)
    with np.errstate(invalid="ignore"):
        terms = mass * (reference.candidate_logprobs - ours)
    return np.where(mass == 0, 0.0, terms)


def pooled(differences: Sequence[Difference]) -> Difference:
    """The differences as if all their tokens had been compared at once. `worst` is -1 then."""
    counts = np.array([one.num_tokens for one in differences])

    def mean(name: str) -> float:
        values = [getattr(one, name) for one in differences]
        return float(np.average(values, weights=counts))

    return Difference(
        num_tokens=int(counts.sum()),
        mean=mean("mean"),
        max=max(one.max for one in differences),
        kl=mean("kl"),
        coverage=mean("coverage"),
        agreement=mean("agreement"),
        regret=max(one.regret for one in differences),
        worst=-1,
        statistics=pooled_statistics([one.statistics for one in differences], counts.tolist()),
    )
