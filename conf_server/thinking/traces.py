"""Traces of a question that have ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from conf_server.stats.early_stop import STOP_REASON
from conf_server.thinking.think_plan import Phase
from conf_server.thinking.trace_scores import TraceScores

FINISHED: Final = "finished"
STOPPED: Final = "stopped_low_confidence"
CANCELLED: Final = "cancelled"
LENGTH: Final = "length"

_STATUSES: Final = {"stop": FINISHED, "tool_calls": FINISHED, "abort": CANCELLED, "length": LENGTH}


@dataclass(frozen=True)
class Trace:
    """One trace that has ended.

    Attributes:
        index: its number, from 0.
        phase: whether it could be ended early: `final`; or not: `warmup`.
        status: how it has ended.
        answer: that was read in it; None where there is none.
        group: of the answers that are equal to its own.
        num_tokens: that were generated.
        scores: None where not all of its tokens' confidences are known.
    """

    index: int
    phase: Phase
    status: str
    answer: str | None
    group: int | None
    num_tokens: int
    scores: TraceScores | None

    @property
    def is_whole(self) -> bool:
        """Whether it has run to an end of its own."""
        return is_whole(self.status)


def is_whole(status: str) -> bool:
    """Whether a trace has run to an end of its own, so that its numbers are those of a whole one,
    and an answer that was read in it is its last word."""
    return status in (FINISHED, LENGTH)


def status_of(finish_reason: str | None, stop_reason: str | int | None) -> str:
    """How a trace has ended, from what the engine says of it; a word of vLLM's that is not known
    here stays as it is."""
    if stop_reason == STOP_REASON and finish_reason == "stop":
        return STOPPED
    return _STATUSES.get(finish_reason or "", finish_reason or CANCELLED)
