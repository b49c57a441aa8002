"""Metrics that say how well an uncertainty tells wrong answers from right ones. Pure numpy.

Ties are never broken: every metric is its expectation over all orders of tied answers. Values
that differ by no more than rounding are tied; `levels_of` says how.
A metric that is not defined raises `UndefinedError`; none has a value that stands for that.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

BINS: Final = 10
LEVEL: Final = 0.95
"""Of every interval."""

ROUNDING: Final = 1e-9
"""Values that differ by this share of the largest one may be equal but for rounding, and a
confidence may be outside [0, 1] by as much."""


LEAST_SCALE: Final = 1e-4
"""The largest value is taken to be at least this: where all should be 0, it is rounding too."""


class UndefinedError(ValueError):
    """The figure has no value. The message says why, in a few words."""


@dataclass(frozen=True)
class Levels:
    """n answers by their g levels of uncertainty, the surest level first.

    Attributes:
        right: (g,) how many correct answers have this level.
        wrong: (g,) how many wrong answers have it.
    """

    right: Floats
    wrong: Floats

    @staticmethod
    def of(uncertainty: ArrayLike, wrong: ArrayLike) -> Levels:
        """Sort answers into levels.

        Args:
            uncertainty: (n,) finite numbers, higher = less sure.
            wrong: (n,) bool.
        """
        return counted(*level_cells(uncertainty, wrong))

    @property
    def total(self) -> Floats:
        return self.right + self.wrong


def levels_of(values: ArrayLike) -> NDArray[np.intp]:
    """(n,) the level of each of n finite numbers, from 0, in ascending order.

    Neighbours share a level where they differ by at most 1e-9 of the largest absolute
    value: the eigenvalues of one graph differ by about 1e-15 with the order of its nodes.
    """
    distinct, place = np.unique(np.asarray(values, np.float64), return_inverse=True)
    scale = max(LEAST_SCALE, np.abs(distinct).max(initial=0.0))
    with np.errstate(over="ignore"):  # Values near both ends of the doubles are far apart.
        steps = np.diff(distinct, prepend=distinct[:1]) > ROUNDING * scale
    return np.cumsum(steps)[place]


def level_cells(uncertainty: ArrayLike, wrong: ArrayLike) -> tuple[NDArray[np.intp], int]:
    """(n,) twice the level, plus one for wrong answers; and g, the number of levels.

    `counted` makes levels of these cells, or of some of them drawn at random.
    """
    values, wrongs = np.asarray(uncertainty, np.float64), np.asarray(wrong, bool)
    if values.shape != wrongs.shape or values.ndim != 1:
        raise ValueError(f"shapes {values.shape} and {wrongs.shape}: both must be (n,)")
    if not np.isfinite(values).all():
        raise ValueError("uncertainty must be finite")
    level = levels_of(values)
    return 2 * level + wrongs, int(level.max(initial=-1)) + 1


def counted(cells: NDArray[np.intp], count: int) -> Levels:
    """The levels of answers in these cells; what `level_cells` would call a level beyond the last
    one stands for answers without a value, and counts for nothing.
    """
    counts = np.bincount(cells, minlength=2 * count)[: 2 * count].astype(np.float64)
    return Levels(counts[0::2], counts[1::2])


def _require_order(levels: Levels) -> None:
    if not levels.wrong.any():
        raise UndefinedError("no wrong answer" if levels.right.any() else "no labelled answer")
    if not levels.right.any():
        raise UndefinedError("no correct answer")
    if np.count_nonzero(levels.total) < 2:
        raise UndefinedError("all values are equal")


def auroc(levels: Levels) -> float:
    """Area under the ROC curve of detecting wrong answers; 1 is perfect, 0.5 is chance.

    The probability that a wrong answer is more uncertain than a correct one, ties half
    (Mann-Whitney U; Fawcett 2006, doi 10.1016/j.patrec.2005.10.010, section 7).

    Raises:
        UndefinedError: all answers are correct, all are wrong, or all values are equal.
    """
    _require_order(levels)
    surer = np.cumsum(levels.right) - levels.right
    pairs = levels.right.sum() * levels.wrong.sum()
    return float((levels.wrong * (surer + levels.right / 2)).sum() / pairs)


def prediction_rejection_area(levels: Levels) -> float:
    """Mean over k = 1..n of the share of correct answers among the k surest; 1 is best.

    lm-polygraph's `ue_metrics/pred_rej_area.py` at its max_rejection of 1, for labels 0
    and 1 that both occur. Within a level, after s answers of which r are correct, j more
    of a level that is correct to a share q have r + jq on average, so that
    sum_j (r + jq)/(s + j) = mq + (r - sq)(H(s+m) - H(s)), H the harmonic numbers.

    Raises:
        UndefinedError: there is no answer.
    """
    present = levels.total > 0
    if not present.any():
        raise UndefinedError("no labelled answer")
    right, total = levels.right[present], levels.total[present]
    share = right / total
    right_before = np.cumsum(right) - right
    end = np.cumsum(total).astype(np.intp)
    start = end - total.astype(np.intp)
    harmonic = _harmonic(int(end[-1]))
    rest = (right_before - start * share) * (harmonic[end] - harmonic[start])
    return float((right + rest).sum() / end[-1])


@lru_cache(maxsize=2)
def _harmonic(count: int) -> Floats:
    """(count + 1,) H(0)..H(count)."""
    return np.concatenate(([0.0], np.cumsum(1 / np.arange(1, count + 1))))


def prr(levels: Levels) -> float:
    """Prediction rejection ratio: 1 rejects as an oracle does, 0 as chance does.

    (area - random) / (oracle - random) of `prediction_rejection_area`, lm-polygraph's
    `ue_metrics/ue_metric.py`. Where it shuffles 1000 times for `random`, this takes the
    expectation, which is the share of correct answers.

    Raises:
        UndefinedError: all answers are correct, all are wrong, or all values are equal.
    """
    _require_order(levels)
    right, wrong = levels.right.sum(), levels.wrong.sum()
    random = right / (right + wrong)
    oracle = prediction_rejection_area(Levels(np.array([right, 0.0]), np.array([0.0, wrong])))
    return float((prediction_rejection_area(levels) - random) / (oracle - random))


def risk_coverage(levels: Levels) -> tuple[Floats, Floats]:
    """The risk-coverage curve (El-Yaniv and Wiener 2010), one point a threshold.

    Returns:
        (g,) coverage, the share of answers that are as sure as the level or surer,
        ascending to 1; and (g,) risk, the share of wrong ones among them.

    Raises:
        UndefinedError: there is no answer.
    """
    if not levels.total.any():
        raise UndefinedError("no labelled answer")
    kept = np.cumsum(levels.total)
    return kept / kept[-1], np.cumsum(levels.wrong) / kept


def aurc(levels: Levels) -> float:
    """Area under the risk-coverage curve: mean over k = 1..n of the share of wrong answers among
    the k surest; 0 is best (Geifman and El-Yaniv 2017, arXiv 1705.08500).

    Raises:
        UndefinedError: there is no answer.
    """
    return 1 - prediction_rejection_area(levels)


def oracle_curve(levels: Levels, points: int = 101) -> tuple[Floats, Floats]:
    """The risk-coverage curve of a method that puts every right answer before every wrong one.

    Returns:
        (points,) coverage from 0 to 1, and (points,) risk.
    """
    wrong = float(levels.wrong.sum() / levels.total.sum())
    coverage = np.union1d(np.linspace(0, 1, points), [1 - wrong])
    kept = np.maximum(coverage, 1e-12)
    return coverage, np.maximum(0.0, coverage - (1 - wrong)) / kept


def risk_at(levels: Levels, coverage: float) -> float:
    """The expected share of wrong answers among the surest ones that make up this share of all.

    Args:
        coverage: in (0, 1]; the number of answers is rounded to the nearest, and is at least one.

    Raises:
        UndefinedError: there is no answer.
    """
    if not levels.total.any():
        raise UndefinedError("no labelled answer")
    present = levels.total > 0
    total, wrong = levels.total[present], levels.wrong[present]
    end = np.cumsum(total)
    kept = max(1.0, round(coverage * end[-1]))
    last = int(np.searchsorted(end, kept))
    rest = kept - (end[last] - total[last])
    return float((wrong[:last].sum() + wrong[last] * rest / total[last]) / kept)


def wilson_interval(hits: ArrayLike, count: ArrayLike) -> tuple[Floats, Floats]:
    """95 % score intervals of shares (Wilson 1927, doi 10.1080/01621459.1927.10502953).

    Args:
        hits: (b,) how many of `count` trials were hits.
        count: (b,) at least 1 each.

    Returns:
        (b,) lower and (b,) upper ends, within [0, 1].
    """
    z = 1.959963984540054  # The normal's quantile of 0.975.
    n = np.asarray(count, np.float64)
    share = np.asarray(hits, np.float64) / n
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return np.maximum(0.0, middle - half), np.minimum(1.0, middle + half)


@dataclass(frozen=True)
class Reliability:
    """Confidence against accuracy in the b bins that hold an answer.

    Attributes:
        confidence: (b,) the mean confidence in each bin.
        accuracy: (b,) the share of correct answers in each bin.
        count: (b,) how many answers each bin holds.
    """

    confidence: Floats
    accuracy: Floats
    count: NDArray[np.int64]


def reliability(confidence: ArrayLike, correct: ArrayLike, bins: int = BINS) -> Reliability:
    """Sort answers into `bins` bins of equal width over [0, 1]; the last one includes 1.

    Args:
        confidence: (n,) in [0, 1], higher = surer.
        correct: (n,) bool.

    Raises:
        UndefinedError: there is no answer, or a confidence is outside [0, 1].
    """
    x, y = np.asarray(confidence, np.float64), np.asarray(correct, bool)
    if not x.size:
        raise UndefinedError("no labelled answer")
    inside = np.clip(x, 0, 1)
    if not (np.abs(x - inside) <= ROUNDING).all():
        raise UndefinedError("values lie outside [0, 1]")
    x = inside
    place = np.minimum((x * bins).astype(np.intp), bins - 1)
    count = np.bincount(place, minlength=bins)
    kept = count > 0
    size = count[kept]
    return Reliability(
        np.bincount(place, weights=x, minlength=bins)[kept] / size,
        np.bincount(place, weights=y, minlength=bins)[kept] / size,
        size,
    )


def ece(bins: Reliability) -> float:
    """Expected calibration error (Guo et al. 2017, arXiv 1706.04599, equation 3); 0 is best."""
    weights = bins.count / bins.count.sum()
    return float((weights * np.abs(bins.accuracy - bins.confidence)).sum())


def midranks(values: ArrayLike) -> Floats:
    """(n,) ranks from 1; equal values share the mean of theirs."""
    level = levels_of(values)
    count = np.bincount(level)
    end = np.cumsum(count)
    return (end - (count - 1) / 2)[level]


def confidence_percentile(uncertainty: ArrayLike) -> Floats:
    """(n,) in (0, 1): the share of answers that are less sure, ties half; higher = surer."""
    ranks = midranks(uncertainty)
    return 1 - (ranks - 0.5) / ranks.size


def spearman(left: ArrayLike, right: ArrayLike) -> float:
    """Rank correlation: Pearson's of the midranks, -1 to 1.

    Raises:
        UndefinedError: there are fewer than two pairs, or all values of one side are equal.
    """
    x, y = midranks(left), midranks(right)
    if x.size < 2:
        raise UndefinedError("fewer than two answers")
    x, y = x - x.mean(), y - y.mean()
    if not x.any() or not y.any():
        raise UndefinedError("all values are equal")
    return float((x * y).sum() / np.sqrt((x * x).sum() * (y * y).sum()))
