"""How often each vote is right when only the first few traces of every question count."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from conf_server.report.figures import Figure
from conf_server.report.recorded_traces import Question, RecordedTrace, ballots_of
from conf_server.report.resampling import bootstrap_means, percentile_interval
from conf_server.thinking.votes import VOTES, Ballot, hold_vote

Floats = NDArray[np.float64]

MAJORITY: Final = "majority"
"""The vote that all others are held against."""


@dataclass(frozen=True)
class VoteCurve:
    """One vote.

    Attributes:
        name: of the vote.
        accuracy: by budget, the share of questions that it answers rightly.
        against_majority: with all traces, its share less that of the majority vote over the same
            draws; None for the majority vote itself.
    """

    name: str
    accuracy: tuple[Figure, ...]
    against_majority: Figure | None


@dataclass(frozen=True)
class VoteCurves:
    """All votes over the same questions.

    Attributes:
        num_questions: with a reference and traces.
        budgets: 1, 2, 4, ... and the most traces that a question has.
        tokens: by budget, the mean over questions of the tokens of the traces that count.
        curves: in the order of the registry of votes.
        silent: votes that no question's traces have the scores for.
    """

    num_questions: int
    budgets: tuple[int, ...]
    tokens: tuple[float, ...]
    curves: tuple[VoteCurve, ...]
    silent: tuple[str, ...]

    def of(self, name: str) -> VoteCurve | None:
        """The curve of a vote; None where it has none."""
        return next((one for one in self.curves if one.name == name), None)


def vote_curves(questions: Sequence[Question], seed: int) -> VoteCurves | None:
    """Hold every vote over the first 1, 2, 4, ... traces; None where there is no question.

    Args:
        seed: of the bootstrap over questions.
    """
    if not questions:
        return None
    budgets = _budgets(max(len(one.traces) for one in questions))
    names = list(VOTES)
    right = np.zeros((len(questions), len(names), len(budgets)))
    held = np.zeros(len(names), bool)
    for row, question in enumerate(questions):
        for place, budget in enumerate(budgets):
            ballots = voters(question.traces[:budget])
            for vote, name in enumerate(names):
                result = hold_vote(name, ballots)
                held[vote] |= result is not None
                right[row, vote, place] = result is not None and question.is_right(result.winner)
    means, draws = right.mean(axis=0), bootstrap_means(right, seed=seed)
    majority = names.index(MAJORITY)
    curves = [
        VoteCurve(
            name,
            tuple(
                Figure(float(mean), interval=percentile_interval(draw))
                for mean, draw in zip(means[vote], draws[:, vote].T, strict=True)
            ),
            None if vote == majority else _difference(means, draws, vote, majority),
        )
        for vote, name in enumerate(names)
        if held[vote]
    ]
    return VoteCurves(
        num_questions=len(questions),
        budgets=budgets,
        tokens=tuple(
            float(np.mean([_tokens(one, budget) for one in questions])) for budget in budgets
        ),
        curves=tuple(curves),
        silent=tuple(name for vote, name in enumerate(names) if not held[vote]),
    )


def voters(traces: Sequence[RecordedTrace]) -> list[Ballot]:
    """The ballots of the traces that voted in the run; where none of these did, of the complete.

    So the server does itself: where too few are above its threshold, the others vote as well.
    """
    ballots = ballots_of([trace for trace in traces if trace.voted])
    return ballots or ballots_of([trace for trace in traces if trace.is_complete])


def _budgets(most: int) -> tuple[int, ...]:
    powers = [1 << power for power in range(most.bit_length()) if 1 << power < most]
    return (*powers, most)


def _tokens(question: Question, budget: int) -> int:
    return sum(trace.scores.num_tokens for trace in question.traces[:budget])


def _difference(means: Floats, draws: Floats, vote: int, other: int) -> Figure:
    """With all traces, one vote less another.

    Args:
        means: (votes, budgets).
        draws: (resamples, votes, budgets).
    """
    return Figure(
        float(means[vote, -1] - means[other, -1]),
        interval=percentile_interval(draws[:, vote, -1] - draws[:, other, -1]),
    )
