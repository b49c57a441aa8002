"""What chance alone would do to the figures: intervals, differences, and the best of many.

All draws with the same seed and the same number of answers draw the same answers, so that the
figures of two methods differ, draw by draw, by what the methods differ in. Pure numpy.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from conf_server.report.evaluation_metrics import (
    LEVEL,
    Levels,
    UndefinedError,
    counted,
    level_cells,
    midranks,
)

Floats = NDArray[np.float64]
Interval = tuple[float, float]
Metric = Callable[[Levels], float]

RESAMPLES: Final = 1000

MAX_UNDEFINED: Final = 0.05
"""The share of resamples that may be undefined before there is no interval."""

BLOCK: Final = 50
"""Permutations at once: their labels are an array of this many times n."""


@dataclass(frozen=True)
class Draws:
    """One metric over the resamples of a bootstrap.

    Attributes:
        figures: (resamples,) NaN where the metric is not defined.
        obstacle: why it is not, in most of the resamples where it is not; empty where it always is.
    """

    figures: Floats
    obstacle: str = ""

    def interval(self) -> Interval | None:
        """The 95 % percentile interval (Efron 1979); None where the metric is not defined for
        more than 5 % of the resamples.
        """
        return percentile_interval(self.figures)


def percentile_interval(figures: Floats) -> Interval | None:
    """As `Draws.interval`."""
    defined = figures[~np.isnan(figures)]
    if not figures.size or defined.size < (1 - MAX_UNDEFINED) * figures.size:
        return None
    low, high = np.quantile(defined, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def bootstrap_draws(
    metrics: Sequence[Metric],
    uncertainty: ArrayLike,
    wrong: ArrayLike,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> list[Draws]:
    """Each metric, over answers drawn with replacement.

    Args:
        uncertainty: (n,) higher = less sure. Answers with NaN are drawn, and count for nothing.
        wrong: (n,) bool.
    """
    cells, count = _cells(uncertainty, wrong)
    rng = np.random.default_rng(seed)
    found = np.full((len(metrics), resamples), np.nan)
    obstacles: list[Counter[str]] = [Counter() for _ in metrics]
    for resample in range(resamples):
        levels = counted(cells[rng.integers(cells.size, size=cells.size)], count)
        for place, metric in enumerate(metrics):
            try:
                found[place, resample] = metric(levels)
            except UndefinedError as error:
                obstacles[place][str(error)] += 1
    return [
        Draws(figures, next((name for name, _ in seen.most_common(1)), ""))
        for figures, seen in zip(found, obstacles, strict=True)
    ]


def bootstrap_means(values: ArrayLike, resamples: int = RESAMPLES, seed: int = 0) -> Floats:
    """Means over rows drawn with replacement, the same rows as `bootstrap_draws` of as many.

    Args:
        values: (n, ...) with n of at least 1.

    Returns:
        (resamples, ...).
    """
    rows = np.asarray(values, np.float64)
    rng = np.random.default_rng(seed)
    return np.array(
        [rows[rng.integers(len(rows), size=len(rows))].mean(axis=0) for _ in range(resamples)]
    )


def _cells(uncertainty: ArrayLike, wrong: ArrayLike) -> tuple[NDArray[np.intp], int]:
    """As `level_cells`, with a level beyond the last one for answers without a value."""
    values, wrongs = np.asarray(uncertainty, np.float64), np.asarray(wrong, bool)
    absent = np.isnan(values)
    present, count = level_cells(values[~absent], wrongs[~absent])
    cells = np.full(values.size, 2 * count, np.intp)
    cells[~absent] = present
    return cells, count


def bootstrap_intervals(
    metrics: Sequence[Metric],
    uncertainty: ArrayLike,
    wrong: ArrayLike,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> list[Interval | None]:
    """The intervals of `bootstrap_draws`."""
    drawn = bootstrap_draws(metrics, uncertainty, wrong, resamples, seed)
    return [one.interval() for one in drawn]


def chance_of_the_best(
    uncertainties: Sequence[Floats], wrong: ArrayLike, rounds: int = RESAMPLES, seed: int = 0
) -> float:
    """How often the best of several methods would be as good as it is if none were of any use.

    The answers' labels are shuffled; whichever method then has the highest AUROC is the best one.
    (The maximum statistic of Westfall and Young 1993, "Resampling-Based Multiple Testing".)

    Args:
        uncertainties: (n,) of each method, NaN where it has no value.
        wrong: (n,) bool, both of which occur.

    Returns:
        (1 + shuffles whose best AUROC is at least the one seen) / (1 + rounds), in (0, 1].
    """
    labels = np.asarray(wrong, np.float64)
    ranks, present = _centred_ranks(uncertainties, labels.size)
    seen = _aurocs(ranks, present, labels[:, None]).max()
    rng = np.random.default_rng(seed)
    reached = 0
    for start in range(0, rounds, BLOCK):
        width = min(BLOCK, rounds - start)
        shuffled = rng.permuted(np.repeat(labels[:, None], width, axis=1), axis=0)
        best = _aurocs(ranks, present, shuffled).max(axis=0)
        reached += int((best >= seen - 1e-12).sum())
    return (1 + reached) / (1 + rounds)


def _centred_ranks(uncertainties: Sequence[Floats], size: int) -> tuple[Floats, Floats]:
    """(m, n) midranks less their mean, 0 where there is no value; and (m, n) where there is one."""
    ranks = np.zeros((len(uncertainties), size))
    present = np.zeros_like(ranks)
    for row, values in enumerate(uncertainties):
        there = ~np.isnan(values)
        placed = midranks(values[there])
        ranks[row, there] = placed - placed.mean() if placed.size else placed
        present[row] = there
    return ranks, present


def _aurocs(ranks: Floats, present: Floats, wrong: Floats) -> Floats:
    """(m, p) AUROC of m methods under p labellings (n, p); 0.5 where one class is absent.

    The ranks of wrong answers, each less the mean of all ranks, sum to (AUROC - 1/2) times pairs.
    """
    lost = present @ wrong
    right = present.sum(axis=1, keepdims=True) - lost
    pairs = np.maximum(1.0, lost * right)
    return np.asarray(0.5 + (ranks @ wrong) / pairs)
