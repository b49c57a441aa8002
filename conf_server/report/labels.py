"""Whether an answer is known to be correct: the fields `correct` and `reference` of a line.

The batch commands check them before anything is sent, so that a label which the report could not
use costs no answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from conf_server.report.matching import Match, matches, normalized

FIELDS: Final = ("correct", "reference")
"""The fields of a line that label its answers."""


class LabelError(ValueError):
    """A label that cannot be meant. The message names the field."""


@dataclass(frozen=True)
class Label:
    """What is known about the answers of one line.

    Attributes:
        correct: whether each of n answers is correct, None where it is not known; empty where
            that is known of none.
        references: texts that a correct answer may have; empty where none is known.
    """

    correct: tuple[bool | None, ...] = ()
    references: tuple[str, ...] = ()

    def says(self, index: int) -> bool:
        """Whether `correct` says of one answer whether it is correct."""
        return index < len(self.correct) and self.correct[index] is not None

    def of(self, index: int, text: object, match: Match) -> tuple[bool | None, str]:
        """Whether one answer is correct; or None, and why that is not known.

        Args:
            index: which of the line's answers.
            text: the answer. Anything but a string cannot be compared with a reference.
        """
        if self.says(index):
            return self.correct[index], ""
        if not self.references:
            return None, "neither `correct` nor `reference`"
        if not isinstance(text, str):
            return None, "a `reference`, but no answer text"
        return matches(text, self.references, match), ""


def parse_label(line: Mapping[str, Any], count: int | None) -> Label:
    """The label of a line.

    Args:
        line: `correct` is a boolean, or a list of `count` booleans; `reference` is a text or a
            list of texts. Both may be absent, and null stands for what is not known.
        count: how many answers the line has; None where that is not known.

    Raises:
        LabelError: one of the two is something else, or of a reference nothing is left that could
            be compared.
    """
    return Label(
        _correct(line.get("correct"), count),
        _references(line.get("reference")),
    )


def _correct(given: object, count: int | None) -> tuple[bool | None, ...]:
    if given is None:
        return ()
    if isinstance(given, list):
        if not all(one is None or isinstance(one, bool) for one in given):
            raise LabelError("`correct` must be true or false, or a list of these")
        if count not in (None, len(given)):
            raise LabelError(f"`correct` has {len(given)} values for {count} answers")
        return tuple(given)
    if not isinstance(given, bool):
        raise LabelError("`correct` must be true or false, or a list of these")
    if count not in (None, 1):
        raise LabelError(f"one `correct` for {count} answers; give a list")
    return (given,)


def _references(given: object) -> tuple[str, ...]:
    if given is None:
        return ()
    texts = given if isinstance(given, list) else [given]
    found = tuple(text for text in texts if isinstance(text, str))
    if len(found) != len(texts):
        raise LabelError("`reference` must be a text or a list of texts")
    if not all(map(normalized, found)):
        raise LabelError("`reference` has a text of which nothing is left to compare")
    return found
