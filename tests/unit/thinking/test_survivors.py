"""Which finished traces vote."""

from __future__ import annotations

from conf_server.thinking.survivors import Survivors, survivors
from tests.unit.thinking.ballots import ballot

SURE, JUST, UNSURE, UNKNOWN = (
    ballot(trace, "a", conf) for trace, conf in enumerate([5.0, 3.0, 2.9, None])
)
ALL = (SURE, JUST, UNSURE, UNKNOWN)


def test_those_below_are_dropped() -> None:
    assert survivors(ALL, 3.0, min_voters=2) == Survivors((SURE, JUST), relaxed=False)


def test_too_few_are_left_so_all_vote() -> None:
    assert survivors(ALL, 3.0, min_voters=3) == Survivors(ALL, relaxed=True)
    assert survivors((UNSURE,), 3.0, min_voters=1) == Survivors((UNSURE,), relaxed=True)


def test_nothing_is_relaxed_where_nobody_was_dropped() -> None:
    assert survivors((SURE,), 3.0, min_voters=3) == Survivors((SURE,), relaxed=False)
    assert survivors((), 3.0, min_voters=3) == Survivors((), relaxed=False)


def test_without_a_threshold_all_vote() -> None:
    assert survivors(ALL, None, min_voters=9) == Survivors(ALL, relaxed=False)
