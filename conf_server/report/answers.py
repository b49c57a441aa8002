"""What the report knows of a file: values by method, and of each answer its texts and its label."""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from conf_server.report.labels import Label
from conf_server.report.matching import Match
from conf_server.report.recorded_traces import Thinking
from conf_server.report.run_record import RunRecord

Floats = NDArray[np.float64]

NO_ANSWER: Final = ""
"""The text of an answer that was asked for and not found: no reference agrees with it."""

LONGEST_NAME: Final = 200
"""Characters of a method's name: plots and tables show it."""


@dataclass(frozen=True)
class Estimate:
    """A method's value for one answer.

    Attributes:
        value: None where the method has none.
        exact: whether it is computed from all that its definition asks for.
        sign: as of `Column`.
    """

    value: float | None
    exact: bool
    sign: int


@dataclass
class Column:
    """The values of one method.

    Attributes:
        sign: 1 where higher values = less sure, -1 where higher = surer.
        values: one for each answer, NaN where an answer has none.
        inexact: how many values are marked `"exact": false`.
    """

    sign: int
    values: array[float]
    inexact: int = 0

    def uncertainty(self) -> Floats:
        """(n,) the values, turned so that higher = less sure; NaN where there is none."""
        return self.sign * np.array(self.values)


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer in words, and what its line says of whether it is right.

    Attributes:
        line: the number of the input's line, or of the file's where that is not in it.
        index: which of the line's answers.
        name: the user's `id` in JSON; None where there is none.
        question: what was asked; None where that is not known.
        text: the answer; None where there is none to be read.
        label: of the whole line; None where it cannot be meant.
    """

    line: int
    index: int
    name: str | None
    question: str | None
    text: str | None
    label: Label | None

    @property
    def compared(self) -> tuple[str, ...]:
        """The references that say whether it is right; empty where something else does."""
        if self.label is None or self.label.says(self.index) or self.text is None:
            return ()
        return self.label.references


@dataclass
class Answers:
    """All answers of a file.

    Attributes:
        path: the file.
        columns: the values by method.
        answers: in the order of the file.
        correct: whether each answer is correct, None where that is not known; empty before
            `judge`.
        matched: how many labels come from a comparison with a reference.
        failed: how many lines hold an error instead of an answer.
        unlabelled: why answers have no label, and how many have none for that reason.
        bad_labels: why labels cannot be meant, and the lines of the file that hold them; their
            answers count as unlabelled too.
        repeated: lines of the file that answer what a line before them has answered. They do
            not count.
        unavailable: methods that the server could not compute with its reasons, and how often.
        record: what the lines say of how they were made.
        thinking: by the place of an answer that traces have voted for, what is recorded of them.
    """

    path: str = ""
    columns: dict[str, Column] = field(default_factory=dict)
    answers: list[Answer] = field(default_factory=list)
    correct: list[bool | None] = field(default_factory=list)
    matched: int = 0
    failed: int = 0
    unlabelled: Counter[str] = field(default_factory=Counter)
    bad_labels: dict[str, array[int]] = field(default_factory=dict)
    repeated: array[int] = field(default_factory=lambda: array("Q"))
    unavailable: Counter[tuple[str, str]] = field(default_factory=Counter)
    record: RunRecord = field(default_factory=RunRecord)
    thinking: dict[int, Thinking] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.answers)

    def labels(self) -> Floats:
        """(n,) whether the answers are correct: 1 yes, 0 no, NaN not known."""
        return np.array([math.nan if one is None else float(one) for one in self.correct])

    def add(self, estimates: Mapping[str, Estimate], answer: Answer) -> None:
        """Add one answer with the values of its methods.

        Raises:
            ValueError: a method has changed its direction, or has no name that fits a plot.
        """
        for name, estimate in estimates.items():
            if len(name) > LONGEST_NAME:
                raise ValueError(
                    f"the name of a method has {len(name)} characters, at most {LONGEST_NAME}"
                )
            start = array("d", [math.nan]) * len(self)
            column = self.columns.setdefault(name, Column(estimate.sign, start))
            if column.sign != estimate.sign:
                raise ValueError(f"{name}: higher_is differs from the lines before")
            if estimate.value is not None:
                column.inexact += not estimate.exact
        for name, column in self.columns.items():
            value = estimates[name].value if name in estimates else None
            column.values.append(math.nan if value is None else value)
        self.answers.append(answer)

    def judge(self, match: Match) -> None:
        """Find out which answers are correct, once all of them are there.

        Args:
            match: when an answer agrees with a reference.
        """
        for answer in self.answers:
            if answer.label is None:
                self.correct.append(None)
                continue
            correct, why = answer.label.of(answer.index, answer.text, match)
            self.correct.append(correct)
            if why:
                self.unlabelled[why] += 1
            elif not answer.label.says(answer.index):
                self.matched += 1
