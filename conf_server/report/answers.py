"""What an output of `score` or `uncertainty` holds: values by method, and a label an answer."""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from conf_server.report.json_lines import ReportError, read_objects
from conf_server.report.labels import Label, LabelError, parse_label
from conf_server.report.labels_file import LabelsFile
from conf_server.report.matching import Match

Floats = NDArray[np.float64]

SIGNS: Final = {"more uncertain": 1, "less uncertain": -1}
"""`higher_is` of an estimate."""


LONGEST_NAME: Final = 200
"""Characters of a method's name: plots and tables show it."""


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


@dataclass
class Answers:
    """All answers of a file.

    Attributes:
        columns: the values by method.
        correct: whether each answer is correct; None where that is not known.
        matched: how many labels come from a comparison with a reference.
        failed: how many lines hold an error instead of an answer.
        unlabelled: why answers have no label, and how many have none for that reason.
        bad_labels: why labels cannot be meant, and the lines of the file that hold them; their
            answers count as unlabelled too.
        repeated: lines of the file that answer what a line before them has answered. They do
            not count.
        unavailable: methods that the server could not compute with its reasons, and how often.
        models: the names of the models that answered.
    """

    columns: dict[str, Column] = field(default_factory=dict)
    correct: list[bool | None] = field(default_factory=list)
    matched: int = 0
    failed: int = 0
    unlabelled: Counter[str] = field(default_factory=Counter)
    bad_labels: dict[str, array[int]] = field(default_factory=dict)
    repeated: array[int] = field(default_factory=lambda: array("Q"))
    unavailable: Counter[tuple[str, str]] = field(default_factory=Counter)
    models: set[str] = field(default_factory=set)

    def __len__(self) -> int:
        return len(self.correct)

    def labels(self) -> Floats:
        """(n,) whether the answers are correct: 1 yes, 0 no, NaN not known."""
        return np.array([math.nan if one is None else float(one) for one in self.correct])

    def add(self, estimates: Mapping[str, Estimate], correct: bool | None) -> None:
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
        self.correct.append(correct)


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


def read_answers(path: str, match: Match, labels_file: LabelsFile | None = None) -> Answers:
    """Read an output of `score` or `uncertainty`.

    Args:
        match: when an answer agrees with a reference.
        labels_file: labels in place of those of the lines.

    Raises:
        ReportError: the file cannot be read, a line is not one of an output, or the labels of
            the other file do not fit.
    """
    answers = Answers()
    seen: set[int] = set()
    for number, line in read_objects(path):
        try:
            if _is_repeated(line, seen):
                answers.repeated.append(number)
                continue
            labelled = labels_file.applied_to(line) if labels_file else line
            _add_line(answers, number, labelled, match)
        except ReportError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            why = f"no {error}" if isinstance(error, KeyError) else str(error)
            raise ReportError(f"{path}: line {number}: {why}") from error
    return answers


def _is_repeated(line: Mapping[str, Any], seen: set[int]) -> bool:
    """Whether the same server's answer to the same request and line was there before."""
    if "request" not in line:
        return False
    key = hash((line.get("line"), line["request"], line.get("server")))
    repeated = key in seen
    seen.add(key)
    return repeated


def _add_line(answers: Answers, number: int, line: Mapping[str, Any], match: Match) -> None:
    if "error" in line:
        answers.failed += 1
        return
    result = line["result"]
    answers.models.add(str(result.get("model")))
    answers.unavailable.update((result.get("unavailable") or {}).items())
    rows = list(_rows(line, result))
    try:
        label = parse_label(line, len(rows))
    except LabelError as error:
        answers.bad_labels.setdefault(str(error), array("Q")).append(number)
        label = None
    for index, (estimates, text) in enumerate(rows):
        correct = None if label is None else _correct(answers, label, index, text, match)
        answers.add(estimates, correct)


def _correct(answers: Answers, label: Label, index: int, text: object, match: Match) -> bool | None:
    """Whether an answer is correct, with a note in `answers` on how that is known."""
    correct, why = label.of(index, text, match)
    if why:
        answers.unlabelled[why] += 1
    elif not label.says(index):
        answers.matched += 1
    return correct


def _rows(
    line: Mapping[str, Any], result: Mapping[str, Any]
) -> Iterator[tuple[dict[str, Estimate], object]]:
    """The estimates and the text of each answer of a line."""
    kind = result.get("object")
    if kind == "uncertainty":
        yield _uncertainty_estimates(result["estimates"]), result["answer"].get("text")
    elif kind == "score":
        texts = line.get("completions") or [line.get("completion")] * len(result["data"])
        for scored, text in zip(result["data"], texts, strict=True):
            yield _score_estimates(scored), _text_of(text)
    else:
        raise ValueError(f"object {kind!r} is neither 'score' nor 'uncertainty'")


def _text_of(completion: object) -> object:
    """The text of a completion that may be an object with more than its text."""
    return completion.get("text") if isinstance(completion, dict) else completion


def _uncertainty_estimates(estimates: Mapping[str, Any]) -> dict[str, Estimate]:
    found = {}
    for name, given in estimates.items():
        direction = given["higher_is"]
        if direction not in SIGNS:
            raise ValueError(f"{name}: higher_is {direction!r} is not known")
        found[name] = Estimate(_number(given["value"]), given["exact"], SIGNS[direction])
    return found


def _score_estimates(scored: Mapping[str, Any]) -> dict[str, Estimate]:
    found = {
        name: Estimate(_number(given["value"]), given["exact"], 1)
        for name, given in (scored.get("uncertainty") or {}).items()
    }
    for name, value in (scored.get("confidence_summary") or {}).items():
        found[name] = Estimate(_number(value), True, -1)
    return found


def _number(value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{value!r} is not a number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ValueError("a number that no double can hold")
    return number
