"""What many traces of a question come to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from conf_server.thinking.survivors import survivors
from conf_server.thinking.think_plan import ThinkPlan
from conf_server.thinking.traces import Trace
from conf_server.thinking.votes import Ballot, VoteResult, hold_vote


@dataclass(frozen=True)
class Outcome:
    """Who has voted, and what was decided.

    Attributes:
        results: by the vote's name, in the plan's order; None where nobody has voted.
        voted: numbers of the traces whose ballots were admitted.
        relaxed: too few were sure enough, so that all have voted that have an answer.
        shares: of each group of equal answers, the heaviest first: its number, its votes, and
            their weight in the vote that decides.
    """

    results: Mapping[str, VoteResult | None]
    voted: frozenset[int]
    relaxed: bool
    shares: tuple[tuple[int, int, float], ...]

    @property
    def winner(self) -> int | None:
        """The group that has won the vote that decides; None where nobody has voted."""
        first, *_ = self.results.values()
        return None if first is None else int(first.winner)


def ballots_of(traces: Sequence[Trace]) -> list[Ballot]:
    """One for each trace that has an answer and whose confidences are known."""
    return [
        Ballot(trace.index, trace.group, trace.scores)
        for trace in traces
        if trace.group is not None and trace.scores is not None
    ]


def decide(plan: ThinkPlan, traces: Sequence[Trace], threshold: float | None) -> Outcome:
    """Hold the votes.

    Args:
        traces: all, in their order.
        threshold: nats; None where there is none.
    """
    admitted = survivors(ballots_of(traces), threshold, plan.min_voters)
    results = {name: hold_vote(name, admitted.ballots) for name in plan.votes}
    deciding = results[plan.votes[0]]
    weights: Mapping[int | str, float] = {} if deciding is None else deciding.weights
    votes = [ballot.group for ballot in admitted.ballots]
    groups = dict.fromkeys(trace.group for trace in traces if trace.group is not None)
    shares = [(group, votes.count(group), weights.get(group, 0.0)) for group in groups]
    return Outcome(
        results=results,
        voted=frozenset(ballot.trace for ballot in admitted.ballots),
        relaxed=admitted.relaxed,
        shares=tuple(sorted(shares, key=lambda share: -share[2])),
    )
