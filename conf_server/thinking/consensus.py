"""When the finished traces agree so far that those still running need not end.

The rules look at ballots: traces that have finished with an answer and may vote. A trace without
an answer is as if it had not been run.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from conf_server.thinking.votes import Ballot, hold_vote


@dataclass(frozen=True)
class Consensus:
    """Which rule ends the traces that still run, and when.

    Attributes:
        rule: a key of `RULES`.
        threshold: the share for `weighted_share`, the probability for `beta`; in (0, 1].
        min_finished: ballots without which no rule ends anything, at least 1.
        window: how many ballots in a row have to agree for `unanimous_window`, at least 1.

    Raises:
        ValueError: one of them is out of its range. The message begins with the attribute's name.
    """

    rule: str = "none"
    threshold: float = 0.95
    min_finished: int = 3
    window: int = 5

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise ValueError(f"rule must be one of {', '.join(RULES)}, got {self.rule!r}")
        if not 0 < self.threshold <= 1:
            raise ValueError(f"threshold must lie in (0, 1], got {self.threshold}")
        for name in ("min_finished", "window"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


def is_reached(consensus: Consensus, ballots: Sequence[Ballot], outstanding: int) -> bool:
    """Whether what still runs may be ended.

    Args:
        ballots: in the order in which their traces finished.
        outstanding: how many traces may still cast a ballot: those that run, and those that have
            not begun.
    """
    if len(ballots) < consensus.min_finished:
        return False
    return RULES[consensus.rule](consensus, ballots, outstanding)


def can_be_certain_of(vote: str) -> bool:
    """Whether the rule `certain` says who wins that vote, of `votes.VOTES`.

    It wants a bound on the weight of a ballot that is still to come, and majority alone has one.
    A confidence has none: it is minus a mean of log-probabilities, which can be as low as floats
    go. Where a vote filters or ranks, a late ballot also changes the weight of those before it.
    """
    return vote == "majority"


def weighted_share(ballots: Sequence[Ballot]) -> float:
    """The winner's share of all weight: V(a) / sum V.

    DeepConf's adaptive sampling (section 3.2): a ballot's weight is its trace's confidence, which
    is the lowest window's there, as in the online vote of its code. 0 where nothing has weight.
    """
    result = hold_vote("min_window_weighted", ballots)
    return 0.0 if result is None else result.weight / math.fsum(result.weights.values())


def leader_probability(leader: int, runner_up: int) -> float:
    """Probability that the leading answer keeps ahead of the next: P(share > 1/2).

    Adaptive consistency (Aggarwal et al. 2023, arXiv 2305.11860): the leader's share among the two
    is Beta(a + 1, b + 1) distributed, with a and b votes. For whole numbers that is the chance
    of at most a heads among n = a + b + 1 tosses: sum over i <= a of C(n, i) / 2^n.

    Args:
        leader: a, votes of the answer that has most.
        runner_up: b, votes of the next; 0 where there is none.
    """
    n = leader + runner_up + 1
    return sum(math.comb(n, heads) for heads in range(leader + 1)) / 2**n


def _two_leaders(ballots: Sequence[Ballot]) -> tuple[int, int]:
    counts = [count for _, count in Counter(ballot.group for ballot in ballots).most_common(2)]
    leader, runner_up = [*counts, 0, 0][:2]
    return leader, runner_up


def _weighted_share(rule: Consensus, ballots: Sequence[Ballot], _outstanding: int) -> bool:
    return weighted_share(ballots) >= rule.threshold


def _beta(rule: Consensus, ballots: Sequence[Ballot], _outstanding: int) -> bool:
    return leader_probability(*_two_leaders(ballots)) >= rule.threshold


def _certain(_rule: Consensus, ballots: Sequence[Ballot], outstanding: int) -> bool:
    """The lead is larger than what can still come. An equal number is not enough: a tie goes to
    the answer of the earliest trace, and that one may be running."""
    leader, runner_up = _two_leaders(ballots)
    return leader - runner_up > outstanding


def _unanimous_window(rule: Consensus, ballots: Sequence[Ballot], _outstanding: int) -> bool:
    """The last `window` ballots are for one answer.

    Early-stopping self-consistency (Li et al. 2024, arXiv 2401.10480) samples a window after the
    other and looks at each when it is full. Here traces finish one by one, and the window moves
    with them: it stops where theirs would, or before.
    """
    last = ballots[-rule.window :]
    return len(last) == rule.window and len({ballot.group for ballot in last}) == 1


def _none(_rule: Consensus, _ballots: Sequence[Ballot], _outstanding: int) -> bool:
    return False


Rule = Callable[[Consensus, Sequence[Ballot], int], bool]

RULES: Final[Mapping[str, Rule]] = MappingProxyType(
    {
        "weighted_share": _weighted_share,
        "beta": _beta,
        "certain": _certain,
        "unanimous_window": _unanimous_window,
        "none": _none,
    }
)
"""Every rule by name."""
