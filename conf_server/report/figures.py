"""What the report says of each method in numbers, with the reason where one is not defined."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm  # type: ignore[import-untyped]

from conf_server.report.answers import Answers, Column
from conf_server.report.evaluation_metrics import (
    Levels,
    Reliability,
    UndefinedError,
    auroc,
    confidence_percentile,
    ece,
    levels_of,
    prr,
    reliability,
    risk_at,
    risk_coverage,
    spearman,
)
from conf_server.report.resampling import RESAMPLES, Draws, bootstrap_draws
from conf_server.uncertainty.registry import METHODS

Floats = NDArray[np.float64]


NOT_A_PROBABILITY: Final = "its values are no probabilities"
KEPT: Final = 0.8
"""The share of answers that are kept where the report says how many errors are left."""

risk_kept = partial(risk_at, coverage=KEPT)
"""The share of wrong answers among the surest ones of this share."""


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
        uncertainty: (n,) of all answers of the file, higher = less sure; NaN where there is none.
            A perplexity is its logarithm here.
        values: (k,) the values of the answers that have one, as the server gave them.
        correct: (k,) whether these answers are correct: 1 yes, 0 no, NaN not known.
        inexact: how many of the k values are marked `"exact": false`.
        levels: the labelled answers by their uncertainty.
        reliability: confidence against accuracy of the labelled answers; None where there are
            none.
        is_probability: whether the method's confidence is a probability; it is a percentile
            among these answers otherwise.
        risk: the share of wrong answers among the surest `KEPT` of the labelled ones.
        auroc_draws: (resamples,) AUROC in the draws of the bootstrap, which are the same draws for
            every method of a file; NaN where it is not defined.
    """

    name: str
    sign: int
    uncertainty: Floats
    values: Floats
    correct: Floats
    inexact: int
    levels: Levels
    reliability: Reliability | None
    is_probability: bool
    auroc: Figure
    prr: Figure
    ece: Figure
    risk: Figure
    auroc_draws: Floats = field(default_factory=lambda: np.empty(0))

    @property
    def labelled(self) -> int:
        return int(self.levels.total.sum())

    @property
    def wrong_share(self) -> float:
        """The share of wrong answers among the labelled ones, of which there must be one."""
        return float(self.levels.wrong.sum() / self.levels.total.sum())

    @property
    def is_constant(self) -> bool:
        """Whether it has one value for all its answers, or for its only one."""
        return self.values.size > 0 and int(levels_of(self.values).max()) == 0

    def risk_coverage(self) -> tuple[Floats, Floats]:
        return risk_coverage(self.levels)


def method_figures(
    answers: Answers, seed: int, resamples: int = RESAMPLES, progress: bool | None = False
) -> list[MethodFigures]:
    """The figures of every method, the best AUROC first, those without one last.

    Args:
        answers: judged.
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
    ranks = told_apart(name, uncertainty)
    known = ~np.isnan(labels)
    ranking, draws = _ranking(ranks[known], labels[known] == 0, seed, resamples)
    return MethodFigures(
        name=name,
        sign=column.sign,
        uncertainty=ranks,
        values=column.sign * uncertainty[present],
        correct=labels[present],
        inexact=column.inexact,
        levels=Levels.of(ranks[labelled], wrong),
        reliability=bins,
        is_probability=confidence is not None,
        auroc=ranking[0],
        prr=ranking[1],
        ece=calibration,
        risk=ranking[2],
        auroc_draws=draws,
    )


def told_apart(name: str, uncertainty: Floats) -> Floats:
    """Numbers in the same order whose differences say which of the values are equal."""
    if name in METHODS and METHODS[name].is_ratio and not (uncertainty <= 0).any():
        return np.log(uncertainty)
    return uncertainty


def _ranking(
    uncertainty: Floats, wrong: NDArray[np.bool_], seed: int, resamples: int
) -> tuple[list[Figure], Floats]:
    """AUROC, PRR and the risk that is left, and the draws of AUROC.

    Args:
        uncertainty: (n,) of the labelled answers, NaN where there is none.
    """
    metrics = (auroc, prr, risk_kept)
    present = ~np.isnan(uncertainty)
    levels = Levels.of(uncertainty[present], wrong[present])
    try:
        values = [metric(levels) for metric in metrics]
    except UndefinedError as error:
        return [Figure(None, str(error))] * len(metrics), np.full(resamples, np.nan)
    drawn = bootstrap_draws(metrics, uncertainty, wrong, resamples, seed)
    figures = [_with_interval(*pair, levels) for pair in zip(values, drawn, strict=True)]
    return figures, drawn[0].figures


def _with_interval(value: float, draws: Draws, levels: Levels) -> Figure:
    interval = draws.interval()
    return Figure(
        value, interval=interval, no_interval="" if interval else _obstacle(draws, levels)
    )


def _obstacle(draws: Draws, levels: Levels) -> str:
    """Why too many resamples have no figure."""
    most = int(levels.total.max(initial=0))
    if draws.obstacle == "all values are equal":
        return f"{most} of {int(levels.total.sum())} values are equal"
    return "too few answers of one class for an interval"


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


def correlations(methods: Sequence[MethodFigures]) -> Floats:
    """(m, m) Spearman's rank correlation of every two methods, over the answers that have both.

    NaN where one is not defined.
    """
    columns = [method.uncertainty for method in methods]
    found = np.full((len(columns), len(columns)), np.nan)
    for row, left in enumerate(columns):
        for place, right in enumerate(columns[: row + 1]):
            both = ~np.isnan(left) & ~np.isnan(right)
            try:
                found[row, place] = found[place, row] = spearman(left[both], right[both])
            except UndefinedError:
                continue
    return found
