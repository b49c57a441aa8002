"""What the report says of each method in numbers, with the reason where one is not defined."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm  # type: ignore[import-untyped]

from conf_server.report.answers import Answers, Column
from conf_server.report.evaluation_metrics import (
    RESAMPLES,
    Levels,
    Reliability,
    UndefinedError,
    auroc,
    bootstrap_intervals,
    confidence_percentile,
    ece,
    prr,
    reliability,
    risk_coverage,
    spearman,
)
from conf_server.uncertainty.registry import METHODS

Floats = NDArray[np.float64]


NOT_A_PROBABILITY: Final = "its values are no probabilities"
NO_INTERVAL: Final = "too few answers of one class for an interval"


@dataclass(frozen=True)
class Figure:
    """A number with its interval.

    Attributes:
        value: None where it is not defined.
        reason: why it is not.
        interval: its lower and upper end; None where there is none.
        no_interval: why there is none although there is a value.
    """

    value: float | None
    reason: str = ""
    interval: tuple[float, float] | None = None
    no_interval: str = ""


@dataclass(frozen=True)
class MethodFigures:
    """What the answers of a file say about one method.

    Attributes:
        name: the method's name.
        sign: 1 where higher values = less sure, -1 where higher = surer.
        values: (n,) the values of the answers that have one, as the server gave them.
        correct: (n,) whether these answers are correct: 1 yes, 0 no, NaN not known.
        inexact: how many of the n values are marked `"exact": false`.
        levels: the labelled answers by their uncertainty.
        reliability: confidence against accuracy of the labelled answers; None where there are
            none.
        is_probability: whether the method's confidence is a probability; it is a percentile
            among these answers otherwise.
    """

    name: str
    sign: int
    values: Floats
    correct: Floats
    inexact: int
    levels: Levels
    reliability: Reliability | None
    is_probability: bool
    auroc: Figure
    prr: Figure
    ece: Figure

    @property
    def labelled(self) -> int:
        return int(self.levels.total.sum())

    def risk_coverage(self) -> tuple[Floats, Floats]:
        return risk_coverage(self.levels)


def method_figures(
    answers: Answers, seed: int, resamples: int = RESAMPLES, progress: bool | None = False
) -> list[MethodFigures]:
    """The figures of every method, the best AUROC first, those without one last.

    Args:
        seed: of the bootstrap.
        resamples: how many resamples the bootstrap draws.
        progress: whether to show a bar on stderr; None shows it where stderr is a terminal.
    """
    labels = answers.labels()
    columns = tqdm(
        answers.columns.items(), unit="method", disable=None if progress is None else not progress
    )
    found = [_figures_of(name, column, labels, seed, resamples) for name, column in columns]
    return sorted(found, key=lambda one: (one.auroc.value is None, -(one.auroc.value or 0)))


def _figures_of(
    name: str, column: Column, labels: Floats, seed: int, resamples: int
) -> MethodFigures:
    uncertainty = column.uncertainty()
    present = ~np.isnan(uncertainty)
    labelled = present & ~np.isnan(labels)
    unsure, wrong = uncertainty[labelled], labels[labelled] == 0
    confidence = METHODS[name].confidence if name in METHODS else None
    bins, calibration = _calibration(confidence, column.sign, unsure, ~wrong)
    ranks = _told_apart(name, unsure)
    ranking = _with_intervals((auroc, prr), ranks, wrong, seed, resamples)
    return MethodFigures(
        name=name,
        sign=column.sign,
        values=column.sign * uncertainty[present],
        correct=labels[present],
        inexact=column.inexact,
        levels=Levels.of(ranks, wrong),
        reliability=bins,
        is_probability=confidence is not None,
        auroc=ranking[0],
        prr=ranking[1],
        ece=calibration,
    )


def _told_apart(name: str, uncertainty: Floats) -> Floats:
    """Numbers in the same order whose differences say which of the values are equal."""
    if name in METHODS and METHODS[name].is_ratio and not (uncertainty <= 0).any():
        return np.log(uncertainty)
    return uncertainty


def _with_intervals(
    metrics: Sequence[Callable[[Levels], float]],
    uncertainty: Floats,
    wrong: NDArray[np.bool_],
    seed: int,
    resamples: int,
) -> list[Figure]:
    """The figures of metrics that are defined for the same answers."""
    levels = Levels.of(uncertainty, wrong)
    try:
        values = [metric(levels) for metric in metrics]
    except UndefinedError as error:
        return [Figure(None, str(error))] * len(metrics)
    intervals = bootstrap_intervals(metrics, uncertainty, wrong, resamples, seed)
    return [
        Figure(value, interval=interval, no_interval="" if interval else NO_INTERVAL)
        for value, interval in zip(values, intervals, strict=True)
    ]


def _calibration(
    confidence: Callable[[Floats], Floats] | None,
    sign: int,
    uncertainty: Floats,
    correct: NDArray[np.bool_],
) -> tuple[Reliability | None, Figure]:
    """The reliability of a method's confidence, or of its percentile where it has none."""
    if not uncertainty.size:
        return None, Figure(None, "no labelled answer")
    if confidence is None:
        return reliability(confidence_percentile(uncertainty), correct), Figure(
            None, NOT_A_PROBABILITY
        )
    try:
        with np.errstate(over="ignore", divide="ignore"):  # What overflows is no probability.
            bins = reliability(confidence(sign * uncertainty), correct)
    except UndefinedError as error:
        return None, Figure(None, str(error))
    return bins, Figure(ece(bins))


def correlations(answers: Answers) -> tuple[list[str], Floats]:
    """Spearman's rank correlation of every two methods, over the answers that have both.

    Returns:
        the names of the m methods, and (m, m) correlations, NaN where one is not defined.
    """
    names = list(answers.columns)
    columns = [_told_apart(name, answers.columns[name].uncertainty()) for name in names]
    found = np.full((len(names), len(names)), np.nan)
    for row, left in enumerate(columns):
        for place, right in enumerate(columns[: row + 1]):
            both = ~np.isnan(left) & ~np.isnan(right)
            try:
                found[row, place] = found[place, row] = spearman(left[both], right[both])
            except UndefinedError:
                continue
    return names, found
