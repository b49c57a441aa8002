"""What a threshold from a larger warm-up would have come to, over traces that were not ended early.

A run with the same seeds makes the same traces, so that this is what it would answer, but where too
few of them pass: then all vote here, and in a run those that were not stopped.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np

from conf_server.report.recorded_traces import Question, ballots_of
from conf_server.thinking.survivors import survivors
from conf_server.thinking.threshold import threshold
from conf_server.thinking.votes import hold_vote

VOTE: Final = "min_window_weighted"
KEEP_TOP: Final = 0.1
MIN_VOTERS: Final = 3
"""As the server has it where a request does not say."""

WARMUPS: Final = (8, 16, 32)


def replayed(question: Question, warmup: int) -> tuple[bool, bool]:
    """Whether a question is answered rightly, and whether too few traces have passed."""
    whole = [trace for trace in question.traces if trace.is_complete]
    lowest = [trace.scores.min_conf for trace in whole if trace.index < warmup]
    below = threshold([one for one in lowest if one is not None], KEEP_TOP)
    admitted = survivors(ballots_of(whole), below, MIN_VOTERS)
    result = hold_vote(VOTE, admitted.ballots)
    return result is not None and question.is_right(result.winner), admitted.relaxed


def replays(questions: Sequence[Question]) -> Iterator[str]:
    """A sentence for each warm-up."""
    for warmup in WARMUPS:
        right, relaxed = np.array([replayed(one, warmup) for one in questions], float).T
        yield (
            f"`keep_top` {KEEP_TOP} of {warmup} traces, replayed: {100 * right.mean():.1f} % "
            f"right; too few pass in {relaxed.sum():.0f} questions."
        )
