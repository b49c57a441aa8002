"""Which answers are the same one: `think.answer.equal`.

- `exact`: the texts are the same, as in DeepConf.
- `number`: both are numbers, and the same one, in exact arithmetic (`numerals` has the rules), or
  their texts are the same.
- `latex`: math-verify takes both for the same mathematical object, or their texts are the same. A
  new answer is compared with the first member of each group, in the order of the groups.
"""

from __future__ import annotations

import asyncio
import importlib.util
import time
from typing import Final, Protocol

from conf_server.refusal import RefusalError
from conf_server.uncertainty.parsing import extract_number

EQUALS: Final = ("exact", "number", "latex")
LATEX_TIMEOUT: Final = "latex_timeout"
"""The warning that some answers could not be compared, and count as different ones."""
PATIENCE_S: Final = 60.0
"""Seconds that the comparisons of one request may take together. 500 answers that are all
different make 125,000 of them, at some milliseconds each."""


class ComparisonGivenUpError(Exception):
    """Whether two answers are equal cannot be told: it takes too long, or too much memory."""


class Comparer(Protocol):
    """Who compares two answers that are different texts."""

    async def equal(self, one: str, other: str) -> bool:
        """Whether they are the same answer, whichever comes first.

        Raises:
            ComparisonGivenUpError: that cannot be told.
        """


def check_equal(equal: str) -> None:
    """See that answers can be compared so, before any work for them is done.

    Raises:
        RefusalError: there is no such rule, or its library is not installed.
    """
    if equal not in EQUALS:
        raise RefusalError("think.answer.equal", f"it is one of {', '.join(EQUALS)}")
    if equal == "latex" and importlib.util.find_spec("math_verify") is None:
        raise RefusalError(
            "think.answer.equal", "latex needs math-verify: pip install 'conf-server[latex]'"
        )


class AnswerGroups:
    """The answers of one request, as they come, in groups of equal ones.

    Groups are numbered from 0 in the order in which their first answers came. Where equality is
    not transitive, as with `latex` (0.3333333 is 1/3 to it), the groups depend on that order.

    Attributes:
        given_up: comparisons that were begun or due, and told nothing. Their answers count as
            different, so that equal ones may be in two groups.
    """

    def __init__(
        self, equal: str, comparer: Comparer | None = None, patience_s: float = PATIENCE_S
    ) -> None:
        """
        Args:
            equal: one of `EQUALS`.
            comparer: who compares answers, for `latex` alone.
            patience_s: seconds that all comparisons may take together.

        Raises:
            RefusalError: as `check_equal`.
            ValueError: `latex` has no comparer, or another rule has one.
        """
        check_equal(equal)
        if (comparer is not None) != (equal == "latex"):
            raise ValueError("a comparer goes with latex")
        self.given_up = 0
        self._equal = equal
        self._comparer = comparer
        self._patience_s = patience_s
        self._shown: list[str] = []
        self._group_of: dict[str, int] = {}
        self._turn = asyncio.Lock()  # two equal answers at a time would make two groups

    async def add(self, answer: str) -> int:
        """Put an answer into a group, and return the group's number."""
        async with self._turn:
            key = self._key(answer)
            group = self._group_of.get(key)
            if group is None and self._comparer is not None:
                group = await self._compared(answer, self._comparer)
            if group is None:
                group = len(self._shown)
                self._shown.append(answer)
            self._group_of[key] = group
            return group

    def shown(self, group: int) -> str:
        """The answer that came first, which stands for its group."""
        return self._shown[group]

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a client is told of comparisons that were given up."""
        return (LATEX_TIMEOUT,) if self.given_up else ()

    def _key(self, answer: str) -> str:
        """Answers with the same key are equal."""
        number = extract_number(answer) if self._equal == "number" else None
        return f"text {answer}" if number is None else f"number {number}"

    async def _compared(self, answer: str, comparer: Comparer) -> int | None:
        """The first group that a new answer belongs to; None where it is the first of its own."""
        for group, first in enumerate(self._shown):
            if self._patience_s <= 0:
                self.given_up += len(self._shown) - group
                return None
            began = time.monotonic()
            try:
                if await comparer.equal(first, answer):
                    return group
            except ComparisonGivenUpError:
                self.given_up += 1
            finally:
                self._patience_s -= time.monotonic() - began
        return None
