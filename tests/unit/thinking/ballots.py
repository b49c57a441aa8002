"""Ballots for tests."""

from __future__ import annotations

from conf_server.thinking.trace_scores import TraceScores
from conf_server.thinking.votes import Ballot, Group


def ballot(
    trace: int, group: Group, conf: float | None = 1.0, certainty: float | None = None
) -> Ballot:
    """Of a trace that is equally sure everywhere."""
    return Ballot(trace, group, TraceScores(1, conf, conf, conf, conf, certainty))


def of_groups(groups: str) -> list[Ballot]:
    """One ballot for each letter."""
    return [ballot(trace, group) for trace, group in enumerate(groups)]
