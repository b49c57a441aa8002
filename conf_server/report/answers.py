"""What an output of `score` or `uncertainty` holds: a column a method, a label an answer."""

from __future__ import annotations

import gzip
import json
import math
import sys
import zlib
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final, cast

import numpy as np
from numpy.typing import NDArray

from conf_server.report.matching import Match, matches

Floats = NDArray[np.float64]

SIGNS: Final = {"more uncertain": 1, "less uncertain": -1}
"""`higher_is` of an estimate."""


class ReportError(ValueError):
    """A file that cannot be reported on. The message names it."""


@dataclass
class Column:
    """A method's values.

    Attributes:
        sign: 1 where higher = more uncertain, -1 where higher = surer.
        values: one an answer, NaN where it has none.
        inexact: how many are from less than they should be (`"exact": false`).
    """

    sign: int
    values: array[float]
    inexact: int = 0

    def uncertainty(self) -> Floats:
        """(n,) higher = more uncertain, NaN where there is none."""
        return self.sign * np.array(self.values)


@dataclass
class Answers:
    """All answers of a file.

    Attributes:
        columns: by method.
        correct: one an answer; None where it is not known.
        matched: how many labels come from a reference.
        failed: lines with an error instead of an answer.
        unlabelled: why answers have no label, and how many.
        unavailable: methods that the server could not do, with its reasons, and how often.
        models: names of the models that answered.
    """

    columns: dict[str, Column] = field(default_factory=dict)
    correct: list[bool | None] = field(default_factory=list)
    matched: int = 0
    failed: int = 0
    unlabelled: Counter[str] = field(default_factory=Counter)
    unavailable: Counter[tuple[str, str]] = field(default_factory=Counter)
    models: set[str] = field(default_factory=set)

    def __len__(self) -> int:
        return len(self.correct)

    def labels(self) -> Floats:
        """(n,) 1 correct, 0 wrong, NaN not known."""
        return np.array([math.nan if one is None else float(one) for one in self.correct])

    def add(self, estimates: Mapping[str, Estimate], correct: bool | None) -> None:
        """
        Raises:
            ValueError: a method has changed its direction.
        """
        for name, estimate in estimates.items():
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
    """A method's value of one answer; None where it has none."""

    value: float | None
    exact: bool
    sign: int


def read_answers(path: str, match: Match) -> Answers:
    """
    Raises:
        ReportError: it cannot be read, or a line is not an output line, or has a label that
            cannot be meant.
    """
    answers = Answers()
    try:
        with _open(path) as file:
            for number, text in enumerate(file, 1):
                try:
                    _add_line(answers, json.loads(text), match)
                except (ValueError, KeyError, TypeError, AttributeError) as error:
                    why = f"no {error}" if isinstance(error, KeyError) else str(error)
                    raise ReportError(f"{path}: line {number}: {why}") from error
    except (OSError, EOFError, zlib.error) as error:
        raise ReportError(f"{path}: {getattr(error, 'strerror', None) or error}") from error
    return answers


def _open(path: str) -> IO[bytes]:
    if path == "-":
        return sys.stdin.buffer
    return cast(IO[bytes], gzip.open(path)) if path.endswith(".gz") else Path(path).open("rb")


def _add_line(answers: Answers, line: object, match: Match) -> None:
    if not isinstance(line, dict):
        raise ValueError("not a JSON object")
    if "error" in line:
        answers.failed += 1
        return
    result = line["result"]
    answers.models.add(str(result.get("model")))
    answers.unavailable.update((result.get("unavailable") or {}).items())
    rows = list(_rows(line, result))
    for index, (estimates, text) in enumerate(rows):
        correct, why = _label(line, index, len(rows), text, match)
        if why:
            answers.unlabelled[why] += 1
        elif line.get("correct") is None:
            answers.matched += 1
        answers.add(estimates, correct)


def _rows(
    line: Mapping[str, Any], result: Mapping[str, Any]
) -> Iterator[tuple[dict[str, Estimate], object]]:
    """Estimates and text of each answer of a line."""
    kind = result.get("object")
    if kind == "uncertainty":
        yield _uncertainty_estimates(result["estimates"]), result["answer"].get("text")
    elif kind == "score":
        texts = line.get("completions") or [line.get("completion")] * len(result["data"])
        for scored, text in zip(result["data"], texts, strict=True):
            yield _score_estimates(scored), text
    else:
        raise ValueError(f"object {kind!r} is neither 'score' nor 'uncertainty'")


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
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{value!r} is not a number")
    return float(value)


def _label(
    line: Mapping[str, Any], index: int, count: int, text: object, match: Match
) -> tuple[bool | None, str | None]:
    """Whether the answer is correct; or None, and why that is not known."""
    correct, reference = line.get("correct"), line.get("reference")
    if isinstance(correct, list) and len(correct) == count:
        correct = correct[index]
    elif isinstance(correct, bool) and count > 1:
        raise ValueError(f"one `correct` for {count} completions; give a list")
    if isinstance(correct, bool):
        return correct, None
    if correct is not None:
        raise ValueError(f"`correct` must be true or false, got {correct!r}")
    if reference is None:
        return None, "neither `correct` nor `reference`"
    references = [reference] if isinstance(reference, str) else reference
    if not isinstance(references, list) or not all(isinstance(one, str) for one in references):
        raise ValueError("`reference` must be a text or a list of texts")
    if not references:
        return None, "an empty list of references"
    if not isinstance(text, str):
        return None, "a `reference`, but no answer text"
    return matches(text, references, match), None
