"""Which answer wins: votes by name.

Seven are DeepConf's (arXiv 2508.15260; `compute_all_voting_results` of its `deepconf/utils.py`,
commit 675529d), and one is the self-certainty vote of Kang et al. (arXiv 2502.18581).

Weights are finite, because `TraceScores` refuses others. DeepConf's code does not look: there one
token without a finite confidence makes its trace's weight NaN, an answer whose sum is NaN wins if
it was seen first and cannot win otherwise, and a filter whose percentile is NaN lets nobody vote.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import numpy as np

from conf_server.thinking.trace_scores import TraceScores

Group = int | str
"""Names the answers that count as equal."""

_TOP_TENTH: Final = 90.0
"""Percentile that a trace has to reach to be among the tenth that votes."""
_BORDA_POWER: Final = 0.5


@dataclass(frozen=True)
class Ballot:
    """One trace's answer.

    Attributes:
        trace: index of the trace.
        group: its answer. A trace without an answer casts no ballot; an empty text is none.
        scores: of the trace.
    """

    trace: int
    group: Group
    scores: TraceScores


@dataclass(frozen=True)
class VoteResult:
    """What a vote came to.

    Attributes:
        winner: the answer with the largest weight; of equal ones, that of the earliest trace.
        num_votes: ballots that were counted, of all answers.
        weight: of the winner.
        confidence: mean of the scores that the counted ballots were weighted or ranked by, in nats;
            None for `majority`, which asks for none.
        weights: the weight of each answer that was counted, in the order of their earliest traces.
    """

    winner: Group
    num_votes: int
    weight: float
    confidence: float | None
    weights: Mapping[Group, float]


Score = Callable[[TraceScores], float | None]
Vote = Callable[[Sequence[Ballot]], VoteResult | None]


def hold_vote(name: str, ballots: Sequence[Ballot]) -> VoteResult | None:
    """Hold the vote of that name.

    Args:
        name: a key of `VOTES`.
        ballots: in any order; they are counted in the order of their traces.

    Returns:
        None where nobody votes: there is no ballot, or all weights are 0.

    Raises:
        KeyError: there is no such vote.
    """
    return VOTES[name](sorted(ballots, key=lambda ballot: ballot.trace))


def _count(
    ballots: Sequence[Ballot], weights: Sequence[float], confidence: float | None
) -> VoteResult | None:
    if not any(weight > 0 for weight in weights):
        return None
    sums: dict[Group, float] = {}
    for ballot, weight in zip(ballots, weights, strict=True):
        sums[ballot.group] = sums.get(ballot.group, 0.0) + weight
    winner = max(sums, key=sums.__getitem__)  # the first of equal ones
    return VoteResult(winner, len(ballots), sums[winner], confidence, sums)


def _majority(ballots: Sequence[Ballot]) -> VoteResult | None:
    return _count(ballots, [1.0] * len(ballots), None)


def _weighted(ballots: Sequence[Ballot], score: Score) -> VoteResult | None:
    weights = _weights(ballots, score)
    return _count(ballots, weights, float(np.mean(weights)) if weights else None)


def _top_tenth(ballots: Sequence[Ballot], score: Score) -> VoteResult | None:
    """A weighted vote of those that reach the 90th percentile of the weights."""
    if not ballots:
        return None
    weights = _weights(ballots, score)
    bar = np.percentile(weights, _TOP_TENTH)
    kept = [ballot for ballot, weight in zip(ballots, weights, strict=True) if weight >= bar]
    return _weighted(kept, score)


def _weights(ballots: Sequence[Ballot], score: Score) -> list[float]:
    """A trace without a confidence weighs 0, as in DeepConf's code, and is counted."""
    return [score(ballot.scores) or 0.0 for ballot in ballots]


def _self_certainty_borda(ballots: Sequence[Ballot]) -> VoteResult | None:
    """(N - r + 1)^p for the trace of rank r among N, the surest first, p = 1/2.

    Of equally sure traces the earlier is ranked first, as in the authors' code. N counts the
    ballots; in their code it counts the traces without an answer too. A ballot without a
    self-certainty has no rank and is not counted.
    """
    ranked = [ballot for ballot in ballots if ballot.scores.certainty is not None]
    certainties = [ballot.scores.certainty or 0.0 for ballot in ranked]
    surest_first = sorted(range(len(ranked)), key=lambda i: -certainties[i])
    weights = [0.0] * len(ranked)
    for rank, i in enumerate(surest_first, 1):
        weights[i] = (len(ranked) - rank + 1) ** _BORDA_POWER
    return _count(ranked, weights, float(np.mean(certainties)) if ranked else None)


SCORES: Final[Mapping[str, Score]] = MappingProxyType(
    {
        "mean_weighted": lambda scores: scores.mean_conf,
        "tail_weighted": lambda scores: scores.tail_conf,
        "bottom_window_weighted": lambda scores: scores.bottom_window_conf,
        "min_window_weighted": lambda scores: scores.min_conf,
        "top10_tail_filtered": lambda scores: scores.tail_conf,
        "top10_bottom_window_filtered": lambda scores: scores.bottom_window_conf,
        "self_certainty_borda": lambda scores: scores.certainty,
    }
)
"""What each vote weighs or ranks traces by; `majority` weighs them alike."""


def heaviness(name: str, scores: TraceScores) -> float:
    """What a trace has to itself in the vote of that name, to tell the heaviest one.

    Where a vote weighs all alike, as `majority` does, it is the mean of the least confident window.
    """
    score = SCORES.get(name, SCORES["min_window_weighted"])
    return score(scores) or 0.0


def _by(vote: Callable[[Sequence[Ballot], Score], VoteResult | None], name: str) -> Vote:
    return lambda ballots: vote(ballots, SCORES[name])


VOTES: Final[Mapping[str, Vote]] = MappingProxyType(
    {
        "majority": _majority,
        **{name: _by(_weighted, name) for name in SCORES if name.endswith("_weighted")},
        **{name: _by(_top_tenth, name) for name in SCORES if name.startswith("top10_")},
        "self_certainty_borda": _self_certainty_borda,
    }
)
"""Every vote by name."""
