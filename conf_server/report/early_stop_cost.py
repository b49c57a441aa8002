"""What early stopping would have cost: thresholds replayed over traces that ran to their end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from conf_server.report.figures import Figure
from conf_server.report.recorded_traces import Question, RecordedTrace, ballots_of
from conf_server.report.resampling import bootstrap_means, percentile_interval
from conf_server.thinking.threshold import threshold
from conf_server.thinking.votes import hold_vote

Floats = NDArray[np.float64]

SHARES: Final = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)
"""`keep_top` of the replays."""


@dataclass(frozen=True)
class StopCost:
    """A threshold and what it would have done.

    Attributes:
        keep_top: the share of traces that it lets pass.
        right_dropped: share of the complete traces with a right answer that are below it.
        wrong_dropped: likewise of a wrong answer, or none.
        accuracy: share of questions that the vote of the others answers rightly.
        lost: questions whose vote was right and is wrong without the dropped traces.
        won: questions the other way round.
    """

    keep_top: float
    right_dropped: Figure
    wrong_dropped: Figure
    accuracy: Figure
    lost: int
    won: int


@dataclass(frozen=True)
class StopCosts:
    """All replays.

    Attributes:
        vote: the one that was held.
        num_questions: with a complete trace that has a confidence.
        right, wrong: complete traces with a right answer, and with a wrong one or none.
        from_warmup: questions whose threshold comes from their warm-up traces; that of the others
            comes from all their complete traces.
        accuracy: share of questions that the vote of all complete traces answers rightly.
        costs: by `SHARES`.
    """

    vote: str
    num_questions: int
    right: int
    wrong: int
    from_warmup: int
    accuracy: Figure
    costs: tuple[StopCost, ...]


def stop_costs(questions: Sequence[Question], vote: str, seed: int) -> StopCosts | None:
    """Replay every threshold; None where no complete trace has a confidence.

    The threshold of a question comes from its own traces. A trace whose `min_conf` is below it, or
    that has none, is dropped. Where it would have been ended is not recorded, so nothing is said
    of the tokens that this would have saved.

    Args:
        vote: the name of the one that decides.
        seed: of the bootstrap over questions.
    """
    kept = [one for one in questions if _calibrators(one)]
    if not kept:
        return None
    counts = np.array([[_counts(one, vote, share) for share in SHARES] for one in kept])
    means, draws = counts.mean(axis=0), bootstrap_means(counts, seed=seed)

    def accuracy(place: int, column: int) -> Figure:
        drawn = draws[:, place, column]
        return Figure(float(means[place, column]), interval=percentile_interval(drawn))

    costs = [
        StopCost(
            keep_top=share,
            right_dropped=_ratio(means[place], draws[:, place], 0, 1),
            wrong_dropped=_ratio(means[place], draws[:, place], 2, 3),
            accuracy=accuracy(place, 5),
            lost=int((counts[:, place, 4] > counts[:, place, 5]).sum()),
            won=int((counts[:, place, 4] < counts[:, place, 5]).sum()),
        )
        for place, share in enumerate(SHARES)
    ]
    return StopCosts(
        vote=vote,
        num_questions=len(kept),
        right=int(counts[:, 0, 1].sum()),
        wrong=int(counts[:, 0, 3].sum()),
        from_warmup=sum(any(trace.is_warmup for trace in _calibrators(one)) for one in kept),
        accuracy=accuracy(0, 4),
        costs=tuple(costs),
    )


def _complete(question: Question) -> list[RecordedTrace]:
    return [trace for trace in question.traces if trace.is_complete]


def _calibrators(question: Question) -> list[RecordedTrace]:
    """The traces that the threshold comes from."""
    able = [trace for trace in _complete(question) if trace.scores.min_conf is not None]
    return [trace for trace in able if trace.is_warmup] or able


def _counts(question: Question, vote: str, share: float) -> tuple[int, ...]:
    """Right traces dropped, right traces, wrong ones dropped, wrong ones, and whether the vote of
    all and that of the others are right.
    """
    confidences = [trace.scores.min_conf for trace in _calibrators(question)]
    below = threshold([one for one in confidences if one is not None], share)
    complete = _complete(question)
    passing = [
        trace
        for trace in complete
        if trace.scores.min_conf is not None and trace.scores.min_conf >= below
    ]
    right, kept_right = (
        sum(question.is_right(trace.group) for trace in traces) for traces in (complete, passing)
    )
    wrong, kept_wrong = len(complete) - right, len(passing) - kept_right
    votes = [hold_vote(vote, ballots_of(traces)) for traces in (complete, passing)]
    return (
        *(right - kept_right, right, wrong - kept_wrong, wrong),
        *(int(one is not None and question.is_right(one.winner)) for one in votes),
    )


def _ratio(means: Floats, draws: Floats, part: int, whole: int) -> Figure:
    """The share that a part is of a whole, over all traces of the questions.

    Args:
        means: (6,) of `_counts`.
        draws: (resamples, 6).
    """
    if not means[whole]:
        return Figure(None, "there is no such trace")
    with np.errstate(invalid="ignore"):  # A draw without such a trace has no share.
        drawn = draws[:, part] / draws[:, whole]
    return Figure(float(means[part] / means[whole]), interval=percentile_interval(drawn))
