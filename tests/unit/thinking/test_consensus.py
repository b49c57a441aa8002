"""When what still runs may be ended."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta

from conf_server.thinking.consensus import (
    RULES,
    Consensus,
    can_be_certain_of,
    is_reached,
    leader_probability,
    weighted_share,
)
from conf_server.thinking.votes import VOTES, hold_vote
from tests.unit.thinking.ballots import ballot, of_groups


@pytest.mark.parametrize(
    ("leader", "runner_up", "probability"),
    [(0, 0, 1 / 2), (1, 0, 3 / 4), (3, 0, 15 / 16), (4, 0, 31 / 32), (2, 1, 11 / 16)],
)
def test_the_leader_stays_ahead_with_this_probability(
    leader: int, runner_up: int, probability: float
) -> None:
    assert leader_probability(leader, runner_up) == probability


@given(st.integers(0, 600), st.integers(0, 600))
def test_it_is_the_beta_distribution_s_upper_half(leader: int, runner_up: int) -> None:
    expected = beta.sf(0.5, leader + 1, runner_up + 1)
    assert leader_probability(leader, runner_up) == pytest.approx(expected, rel=1e-9, abs=1e-300)


@pytest.mark.parametrize(
    ("groups", "expected"),
    [("aaa", False), ("aaaa", True), ("aaaab", False), ("aaaaaab", True), ("aaaaaabc", True)],
)
def test_beta_looks_at_the_two_leaders(groups: str, expected: bool) -> None:
    """Four against one are 57 / 64, six against one 247 / 256; a third answer does not count."""
    assert is_reached(Consensus("beta", threshold=0.95), of_groups(groups), 9) is expected


def test_a_share_is_of_the_weight() -> None:
    voters = [ballot(0, "a", 18.0), ballot(1, "b", 1.0), ballot(2, "a", 1.0)]
    assert weighted_share(voters) == 0.95
    assert is_reached(Consensus("weighted_share", 0.95), voters, 9)
    assert not is_reached(Consensus("weighted_share", 0.951), voters, 9)


def test_nothing_has_a_share_where_nothing_has_weight() -> None:
    voters = [ballot(trace, "a", None) for trace in range(3)]
    assert weighted_share(voters) == 0.0
    assert not is_reached(Consensus("weighted_share", 0.95), voters, 9)


@pytest.mark.parametrize(("outstanding", "expected"), [(1, True), (2, False)])
def test_it_is_certain_when_the_rest_cannot_catch_up(outstanding: int, expected: bool) -> None:
    assert is_reached(Consensus("certain"), of_groups("aaab"), outstanding) is expected


@given(st.text("abc", max_size=6), st.integers(0, 4))
def test_what_is_certain_is_never_reversed(groups: str, outstanding: int) -> None:
    """Whatever the rest answers, and whatever its places among the traces are."""
    finished = [ballot(trace, group) for trace, group in enumerate(groups, outstanding)]
    if is_reached(Consensus("certain", min_finished=1), finished, outstanding):
        before = hold_vote("majority", finished)
        for rest in product("abcd", repeat=outstanding):
            after = hold_vote("majority", [*finished, *of_groups("".join(rest))])
            assert before is not None
            assert after is not None
            assert after.winner == before.winner


def test_of_majority_alone_one_can_be_certain() -> None:
    assert [name for name in VOTES if can_be_certain_of(name)] == ["majority"]


@pytest.mark.parametrize(("groups", "expected"), [("bbaaa", True), ("aabaa", False), ("aa", False)])
def test_the_last_in_a_row_agree(groups: str, expected: bool) -> None:
    rule = Consensus("unanimous_window", min_finished=1, window=3)
    assert is_reached(rule, of_groups(groups), 9) is expected


def test_the_row_is_that_of_finishing() -> None:
    finished = [ballot(4, "b"), ballot(0, "a"), ballot(2, "a")]
    assert is_reached(Consensus("unanimous_window", min_finished=1, window=2), finished, 9)


@pytest.mark.parametrize("rule", RULES.keys() - {"none"})
def test_each_waits_for_so_many(rule: str) -> None:
    options: dict[str, Any] = {"threshold": 0.7, "window": 2}
    assert not is_reached(Consensus(rule, min_finished=5, **options), of_groups("aaaa"), 1)
    assert is_reached(Consensus(rule, min_finished=5, **options), of_groups("aaaaa"), 1)


def test_none_ends_nothing() -> None:
    assert not is_reached(Consensus(), of_groups("a" * 50), 1)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("rule", "most"),
        ("threshold", 0.0),
        ("threshold", 1.1),
        ("threshold", math.nan),
        ("min_finished", 0),
        ("window", 0),
    ],
)
def test_what_is_refused(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^{field} must"):
        Consensus(**{field: value})
