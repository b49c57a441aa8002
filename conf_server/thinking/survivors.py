"""Which finished traces vote (DeepConf, arXiv 2508.15260, section 3.2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from conf_server.thinking.votes import Ballot


@dataclass(frozen=True)
class Survivors:
    """Those that vote.

    Attributes:
        ballots: in the order given.
        relaxed: the filter left too few, so those that it had dropped vote as well.
    """

    ballots: tuple[Ballot, ...]
    relaxed: bool


def survivors(ballots: Sequence[Ballot], below: float | None, min_voters: int) -> Survivors:
    """Drop the traces that were unsure somewhere, unless too few would be left.

    Warm-up traces are held to the same threshold as the others, as in DeepConf's code, which does
    not relax: there one trace may decide alone.

    Args:
        ballots: of every trace that ran to its end and has an answer, warm-up traces too.
        below: nats; a trace with `min_conf` below it is dropped, and so is one without a
            confidence. None drops nobody.
        min_voters: how many have to be left.
    """
    if below is None:
        return Survivors(tuple(ballots), relaxed=False)
    kept = tuple(
        ballot
        for ballot in ballots
        if ballot.scores.min_conf is not None and ballot.scores.min_conf >= below
    )
    if len(kept) < min(min_voters, len(ballots)):
        return Survivors(tuple(ballots), relaxed=True)
    return Survivors(kept, relaxed=False)
