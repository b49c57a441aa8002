"""Ending an answer whose confidence has become low (DeepConf, arXiv 2508.15260, section 3.2).

An answer ends with the token that fills a window of W tokens whose mean confidence is below a
threshold. Windows are full ones only: an answer of fewer than W tokens is never ended. Tokens
without a finite confidence stand in no window, as in the summary of an answer.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import ArrayLike

STOP_REASON: Final = "confidence"
"""`stop_reason` of an answer that was ended so."""

_NEAR: Final = 1e-6
"""Nats between a window's sum and the threshold's, below which the running sum is not trusted."""


Action = Literal["stop", "end_thinking"]
"""What a low confidence ends: the answer, or its thinking, after which the model answers."""


@dataclass(frozen=True)
class ThinkingTokens:
    """How a model's thinking begins and ends, as tokens.

    Attributes:
        start: with these it begins.
        end: with these it ends by itself.
        forced: these are put in to end it; `end` is their end.
    """

    start: tuple[int, ...]
    end: tuple[int, ...]
    forced: tuple[int, ...]

    def have_ended(self, ids: Sequence[int]) -> bool:
        """Whether the thinking that `ids` hold, if any, has ended."""
        return _last_place(ids, self.end) > _last_place(ids, self.start)

    def end_with(self, ids: Sequence[int], new: int) -> bool:
        """Whether thinking ends with one of the last `new` tokens."""
        first = max(0, len(ids) - new - len(self.end) + 1)
        return _last_place(ids[first:], self.end) >= 0


@dataclass(frozen=True)
class EarlyStop:
    """When an answer is ended.

    Attributes:
        below: nats; a full window whose mean confidence is smaller ends the answer.
        window: W, tokens of a window.
        min_tokens: tokens that an answer has at least.
        thinking: None to end the answer. Otherwise only its thinking is ended, if it has not ended
            by itself before.
    """

    below: float
    window: int
    min_tokens: int
    thinking: ThinkingTokens | None = None

    @property
    def action(self) -> Action:
        """What a low confidence ends."""
        return "stop" if self.thinking is None else "end_thinking"


class ConfidenceWindow:
    """The last W confidences of an answer that is being made.

    Attributes:
        rule: when the answer is ended.
    """

    __slots__ = ("_is_full", "_last", "_limit", "_sum", "_tokens", "rule")

    def __init__(self, rule: EarlyStop) -> None:
        self.rule = rule
        self._limit = rule.below * rule.window
        self._last: deque[float] = deque(maxlen=rule.window)
        self._is_full = False
        self._sum = 0.0
        self._tokens = 0

    def push(self, confidence: float) -> bool:
        """Take in the next token's confidence, in nats. Returns whether the answer ends with it.

        This runs for every token of every such answer in a scheduler's step.
        """
        self._tokens += 1
        if math.isfinite(confidence):
            last = self._last
            if self._is_full:
                self._sum += confidence - last[0]
                last.append(confidence)
            else:
                self._sum += confidence
                last.append(confidence)
                self._is_full = len(last) == self.rule.window
        above = self._sum - self._limit
        if above > _NEAR or not self._is_full or self._tokens < self.rule.min_tokens:
            return False
        return above < -_NEAR or window_mean(self._last) < self.rule.below


def window_mean(confidences: ArrayLike) -> float:
    """Mean of a window's confidences, the same whatever came before: the exact sum, rounded once.

    Args:
        confidences: (W,) finite nats.
    """
    values = np.asarray(confidences, dtype=np.float64).tolist()
    return math.fsum(values) / len(values)


def early_stop(rule: EarlyStop, confidences: ArrayLike) -> dict[str, Any]:
    """What is told of an answer that `rule` has ended.

    Args:
        confidences: (n,) nats, of all its tokens; of those before the end that was forced, where
            only its thinking was ended.

    Returns:
        `token`, how many tokens these are; `value`, the mean of the window that has ended them;
        `below`, `window` and `action`, of the rule.
    """
    values = np.asarray(confidences, dtype=np.float64)
    finite = values[np.isfinite(values)]
    return {
        "token": len(values),
        "value": window_mean(finite[-rule.window :]),
        "below": rule.below,
        "window": rule.window,
        "action": rule.action,
    }


def _last_place(ids: Sequence[int], part: Sequence[int]) -> int:
    """Where `part` begins in `ids` for the last time; -1 where it never does."""
    width, part = len(part), tuple(part)
    for start in range(len(ids) - width, -1, -1):
        if ids[start] == part[0] and tuple(ids[start : start + width]) == part:
            return start
    return -1
