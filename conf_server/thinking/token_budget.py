"""Tokens that several traces may have together."""

from __future__ import annotations


class TokenBudget:
    """A number of tokens that is never exceeded, because each trace reserves all that it may need.

    Attributes:
        spent: tokens of traces that have ended.
    """

    def __init__(self, total: int, longest: int) -> None:
        """
        Args:
            total: of all traces.
            longest: of one trace.
        """
        self._total = total
        self._longest = longest
        self._reserved = 0
        self.spent = 0

    def reserve(self) -> int | None:
        """How many tokens one more trace may have; None where it has to wait, or there are none.

        While others run, a trace gets as many as a trace may have, or waits for what they leave.
        Alone, it gets what is left.
        """
        left = self._total - self.spent - self._reserved
        if left < self._longest and (self._reserved or not left):
            return None
        granted = min(left, self._longest)
        self._reserved += granted
        return granted

    def settle(self, granted: int, used: int) -> None:
        """A trace has ended that had reserved `granted` tokens and has `used`."""
        self._reserved -= granted
        self.spent += used
