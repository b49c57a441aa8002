"""The answers that a method is most mistaken about: sure and wrong, unsure and right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from conf_server.report.answers import Answer, Answers
from conf_server.report.evaluation_metrics import confidence_percentile
from conf_server.report.figures import MethodFigures

MOST: Final = 5
"""Answers of each kind."""


@dataclass(frozen=True)
class Example:
    """An answer and what a method makes of it.

    Attributes:
        answer: the answer.
        value: the method's, as the server gave it.
        surer_than: the share of the labelled answers that are less sure, ties half.
    """

    answer: Answer
    value: float
    surer_than: float


@dataclass(frozen=True)
class Examples:
    """What one method is most mistaken about.

    Attributes:
        method: its name.
        confident_wrong: wrong answers, the surest first.
        unsure_right: right answers, the least sure first.
    """

    method: str
    confident_wrong: tuple[Example, ...]
    unsure_right: tuple[Example, ...]


def examples_of(answers: Answers, method: MethodFigures) -> Examples:
    """Pick them; of equal values, those that come first in the file.

    Args:
        answers: judged.
    """
    labels = answers.labels()
    rows = np.flatnonzero(~np.isnan(method.uncertainty) & ~np.isnan(labels))
    unsure, correct = method.uncertainty[rows], labels[rows] == 1
    surer = confidence_percentile(unsure) if rows.size else unsure
    values = np.array(answers.columns[method.name].values)[rows]

    def picked(order: Sequence[int] | np.ndarray) -> tuple[Example, ...]:
        return tuple(
            Example(answers.answers[rows[place]], float(values[place]), float(surer[place]))
            for place in order[:MOST]
        )

    surest = np.argsort(unsure, kind="stable")
    least_sure = np.argsort(-unsure, kind="stable")
    return Examples(
        method=method.name,
        confident_wrong=picked(surest[~correct[surest]]),
        unsure_right=picked(least_sure[correct[least_sure]]),
    )
