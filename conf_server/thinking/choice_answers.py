r"""Answers that are one of given choices: `extract: choice`.

The first of these that there is:

1. what the last `\boxed{...}` holds, where that is a choice and nothing else, but for brackets
   around it, `\text{}` and the like, and a point or a bracket behind;
2. the choice right behind the last "answer" that has one there: "The answer is (B)",
   "**Answer:** B", "Final answer: option B";
3. the last choice that stands alone.

A choice stands alone where no letter, digit, apostrophe or hyphen makes it a part of something
longer: not the A of "Area", "A's" or "A-level". A choice of one character is seen in its own
case only, because "a" is a word; a longer one in any. Where two choices fit, the longer one counts.

This is what the regular expressions of common benchmarks come to: simple-evals reads "Answer: B",
MMLU-Pro "answer is (B)", then "Answer: B", then the last letter that stands alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Final

from conf_server.refusal import RefusalError

FIELD: Final = "think.answer.choices"
FEWEST: Final = 2
MOST: Final = 64
LONGEST_TOGETHER: Final = 2000
"""Characters of all choices together: the time for a text grows with it."""

_MARKUP: Final = r"[\s:=*_`\"'“‘(\[{$\\]"
_DRESS: Final = r"(?:text(?:bf|it|rm)?|mathrm|mathbf|boxed)\s?\{"
_LABEL: Final = re.compile(
    rf"\banswer\b(?:{_MARKUP}{{1,8}}(?:is|would be|must be|should be)\b)?"
    rf"(?:{_MARKUP}{{1,8}}(?:option|choice)\b)?(?:{_MARKUP}|{_DRESS}){{1,12}}",
    re.IGNORECASE,
)
_BOX: Final = re.compile(rf"boxed\s{{0,4}}\{{(?:{_MARKUP}|{_DRESS}){{0,12}}")
_BEHIND: Final = re.compile(r"[\s.)\]*_`$:,;\\]{0,12}\}")


def choice_finder(choices: Iterable[str]) -> Callable[[str, int], str | None]:
    """What finds, from a place of a text on, its choice, as the head of this module says.

    Raises:
        RefusalError: there are too few choices, too many, two alike, or an empty one.
    """
    written = [choice.strip() for choice in choices]
    if not FEWEST <= len(written) <= MOST:
        raise RefusalError(FIELD, f"{FEWEST} to {MOST} are needed, not {len(written)}")
    if not all(written):
        raise RefusalError(FIELD, "one of them is empty")
    if sum(map(len, written)) > LONGEST_TOGETHER:
        raise RefusalError(FIELD, f"together they have more than {LONGEST_TOGETHER} characters")
    if len({_lowered(choice) if len(choice) > 1 else choice for choice in written}) < len(written):
        raise RefusalError(FIELD, "two of them are the same, or differ in upper and lower case")
    return _Choices(written).find


class _Choices:
    def __init__(self, written: list[str]) -> None:
        longest_first = sorted(written, key=len, reverse=True)
        self._forms = [(one, _lowered(one) if len(one) > 1 else one) for one in longest_first]

    def find(self, text: str, start: int) -> str | None:
        lowered = _lowered(text)
        return (
            self._in_the_last_box(text, lowered, start)
            or self._behind_the_last_label(text, lowered, start)
            or self._last(text, lowered, start)
        )

    def _at(self, text: str, lowered: str, place: int) -> str | None:
        """The longest choice that stands alone at a place."""
        for choice, form in self._forms:
            there = text if len(choice) == 1 else lowered
            if there.startswith(form, place) and _stands_alone(text, place, place + len(form)):
                return choice
        return None

    def _in_the_last_box(self, text: str, lowered: str, start: int) -> str | None:
        inside = [box.end() for box in _BOX.finditer(text, start)][-1:]
        for place in inside:
            choice = self._at(text, lowered, place)
            if choice and _BEHIND.match(text, place + len(choice)):
                return choice
        return None

    def _behind_the_last_label(self, text: str, lowered: str, start: int) -> str | None:
        choice = None
        for label in _LABEL.finditer(text, start):
            choice = self._at(text, lowered, label.end()) or choice
        return choice

    def _last(self, text: str, lowered: str, start: int) -> str | None:
        """The one that ends last. Each search goes on backwards from where the last has ended."""
        best, found = start, None
        for choice, form in self._forms:
            there = text if len(choice) == 1 else lowered
            limit = len(text)
            while (place := there.rfind(form, max(start, best - len(form) + 1), limit)) >= 0:
                if _stands_alone(text, place, place + len(form)):
                    best, found = place + len(form), choice
                    break
                limit = place + len(form) - 1
        return found


def _stands_alone(text: str, start: int, end: int) -> bool:
    first, last = text[start], text[end - 1]
    before, behind = text[max(0, start - 2) : start], text[end : end + 2]
    return not (_goes_on(before[::-1], first) or _goes_on(behind, last))


def _goes_on(beside: str, edge: str) -> bool:
    """Whether a word goes on beside its edge; the nearest character of `beside` comes first."""
    if not beside or not _in_word(edge):
        return False
    return _in_word(beside[0]) or (beside[0] in "-'’" and _in_word(beside[1:]))


def _in_word(character: str) -> bool:
    return character == "_" or character.isalnum()


def _lowered(text: str) -> str:
    """In lower case, as long as it was: the few characters that would become two stay."""
    lowered = text.lower()
    if len(lowered) == len(text):
        return lowered
    return "".join(low if len(low := one.lower()) == 1 else one for one in text)
