"""The same methods over several files: models or settings held against each other."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from conf_server.report.answers import Answer, Answers
from conf_server.report.evaluation_metrics import Levels, UndefinedError, auroc
from conf_server.report.figures import Figure, told_apart
from conf_server.report.findings import Findings
from conf_server.report.resampling import (
    RESAMPLES,
    bootstrap_draws,
    bootstrap_means,
    percentile_interval,
)

Floats = NDArray[np.float64]

KEYS: Final[dict[str, Callable[[Answer], Hashable | None]]] = {
    "question": lambda one: one.question and (one.question, one.index),
    "`id`": lambda one: one.name and (one.name, one.index),
    "line and reference": lambda one: (
        (one.line, one.index, one.label.references) if one.label and one.label.references else None
    ),
}
"""What two answers to the same question have in common, the best evidence first."""


@dataclass(frozen=True)
class Pairing:
    """Answers of two files to the same questions.

    Attributes:
        by: what they have in common, in words; empty where nothing pairs them.
        left: (p,) places in the first file.
        right: (p,) places in the second one.
    """

    by: str
    left: NDArray[np.intp]
    right: NDArray[np.intp]


@dataclass(frozen=True)
class Difference:
    """The second file less the first one.

    Attributes:
        auroc: by method, the difference of AUROC; over the paired answers where there are some.
        accuracy: the difference of the shares of right answers.
        shares: the share of right answers in each; empty where a file has no label.
        pairing: which answers are paired, of those with a label in both files.
    """

    auroc: dict[str, Figure]
    accuracy: Figure
    shares: tuple[float, ...]
    pairing: Pairing


def labels_of_files(paths: Sequence[str]) -> list[str]:
    """The names of files without their endings; where two are the same, the paths as given."""
    names = [Path(path).name.removesuffix(".gz").removesuffix(".jsonl") for path in paths]
    return list(paths) if len(set(names)) < len(names) else names


def pairing_of(left: Answers, right: Answers) -> Pairing:
    """Pair the answers of two files that are about the same question, and have a label in both.

    What pairs the most answers is taken. A question that a file asks twice pairs nothing.
    """
    found = [_paired_by(by, key, left, right) for by, key in KEYS.items()]
    best = max(found, key=lambda one: one.left.size)
    return best if best.left.size else Pairing("", best.left, best.right)


def _paired_by(
    by: str, key: Callable[[Answer], Hashable | None], left: Answers, right: Answers
) -> Pairing:
    places = [_places(key, one) for one in (left, right)]
    pairs = [(place, places[1][name]) for name, place in places[0].items() if name in places[1]]
    array = np.array(pairs, np.intp).reshape(-1, 2)
    return Pairing(by, array[:, 0], array[:, 1])


def _places(key: Callable[[Answer], Hashable | None], answers: Answers) -> dict[Hashable, int]:
    """Labelled answers by their keys, those whose key no other answer of the file has."""
    found: dict[Hashable, int] = {}
    repeated = set()
    for place, answer in enumerate(answers.answers):
        name = key(answer)
        if name is None or name == "":
            continue
        if name in found:
            repeated.add(name)
        found[name] = place
    return {
        name: place
        for name, place in found.items()
        if name not in repeated and answers.correct[place] is not None
    }


def difference_of(
    left: Findings, right: Findings, seed: int, resamples: int = RESAMPLES
) -> Difference:
    """Hold the second file against the first one.

    Where answers are paired, both figures are of the paired answers alone, and each draw of the
    bootstrap draws the same questions in both files. Where none are, each file is drawn by itself.
    """
    pairing = pairing_of(left.answers, right.answers)
    rows = [pairing.left, pairing.right]
    if not pairing.by:
        files = (left.answers, right.answers)
        rows = [np.flatnonzero(~np.isnan(one.labels())) for one in files]
    seeds = (seed, seed) if pairing.by else (seed, seed + 1)
    sides = [
        _Side(one.answers, kept, start, resamples)
        for one, kept, start in zip((left, right), rows, seeds, strict=True)
    ]
    names = [one.name for one in left.methods if one.name in right.answers.columns]
    return Difference(
        {name: _subtracted(sides, partial(_Side.auroc, name=name)) for name in names},
        _subtracted(sides, _Side.accuracy),
        tuple(side.accuracy()[0] for side in sides) if all(len(one) for one in rows) else (),
        pairing,
    )


@dataclass(frozen=True)
class _Side:
    """The answers of a file that take part."""

    answers: Answers
    rows: NDArray[np.intp]
    seed: int
    resamples: int

    def auroc(self, name: str) -> tuple[float, Floats]:
        """AUROC of a method and its draws."""
        unsure = told_apart(name, self.answers.columns[name].uncertainty())[self.rows]
        wrong = self.answers.labels()[self.rows] == 0
        present = ~np.isnan(unsure)
        value = auroc(Levels.of(unsure[present], wrong[present]))
        (drawn,) = bootstrap_draws([auroc], unsure, wrong, self.resamples, self.seed)
        return value, drawn.figures

    def accuracy(self) -> tuple[float, Floats]:
        """The share of right answers and its draws, which are those of `auroc`."""
        right = self.answers.labels()[self.rows]
        if not right.size:
            raise UndefinedError("no labelled answer")
        return float(right.mean()), bootstrap_means(right, self.resamples, self.seed)


def _subtracted(sides: Sequence[_Side], figure: Callable[[_Side], tuple[float, Floats]]) -> Figure:
    """The second side's figure less the first one's, with its interval."""
    try:
        (first, draws), (second, others) = map(figure, sides)
    except UndefinedError as error:
        return Figure(None, str(error))
    interval = percentile_interval(others - draws)
    why = "" if interval else "too few answers of one class for an interval"
    return Figure(second - first, interval=interval, no_interval=why)
