"""Votes whose numbers can be checked by hand. `test_recorded_deepconf` has DeepConf's own."""

from __future__ import annotations

import math
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conf_server.thinking.trace_scores import TraceScores
from conf_server.thinking.votes import VOTES, Ballot, hold_vote
from tests.unit.thinking.ballots import ballot, of_groups

WEIGHTED = {
    "mean_weighted": 2.0,
    "tail_weighted": 3.0,
    "bottom_window_weighted": 5.0,
    "min_window_weighted": 7.0,
    "top10_tail_filtered": 3.0,
    "top10_bottom_window_filtered": 5.0,
}
"""Which of the scores 2, 3, 5, 7 a vote weighs by."""
GROUPS = st.sampled_from(["a", "b", 7])
BALLOTS = st.lists(
    st.tuples(GROUPS, st.none() | st.floats(0, 40), st.none() | st.floats(0, 40)), max_size=12
).map(lambda drawn: [ballot(trace, *one) for trace, one in enumerate(drawn)])


def test_majority_counts() -> None:
    found = hold_vote("majority", of_groups("abb"))
    assert found is not None
    assert (found.winner, found.num_votes, found.weight) == ("b", 3, 2.0)
    assert found.confidence is None
    assert found.weights == {"a": 1.0, "b": 2.0}


@pytest.mark.parametrize(("name", "weight"), WEIGHTED.items())
def test_what_each_vote_weighs_by(name: str, weight: float) -> None:
    found = hold_vote(name, [Ballot(0, "a", TraceScores(9, 2.0, 3.0, 5.0, 7.0, 11.0))])
    assert found is not None
    assert (found.winner, found.weight, found.confidence) == ("a", weight, weight)


def test_one_sure_trace_outweighs_two_unsure_ones() -> None:
    found = hold_vote("mean_weighted", [ballot(0, 1, 2.0), ballot(1, 1, 2.5), ballot(2, 2, 5.0)])
    assert found is not None
    assert (found.winner, found.num_votes) == (2, 3)
    assert found.weights == {1: 4.5, 2: 5.0}
    assert found.confidence == pytest.approx(9.5 / 3)


def test_the_surest_tenth_votes_alone() -> None:
    """Of ten traces the 90th percentile lies between the two surest; of 101 it is the 91st."""
    voters = [ballot(trace, "a", 1.0) for trace in range(9)] + [ballot(9, "b", 2.0)]
    found = hold_vote("top10_tail_filtered", voters)
    assert found is not None
    assert (found.winner, found.num_votes, found.weights) == ("b", 1, {"b": 2.0})
    found = hold_vote("top10_tail_filtered", [ballot(i, "a", float(i)) for i in range(101)])
    assert found is not None
    assert (found.num_votes, found.confidence) == (11, 95.0)


def test_a_tie_goes_to_the_earliest_trace_whatever_finished_first() -> None:
    for name in VOTES.keys() - {"self_certainty_borda"}:
        found = hold_vote(name, [ballot(5, "late"), ballot(2, "early"), ballot(7, "early", 0.0)])
        assert found is not None
        assert found.winner == "early"


def test_a_trace_without_confidence_weighs_nothing_and_counts() -> None:
    """As in DeepConf's code, where its confidence is 0."""
    voters = [ballot(0, "a", None), ballot(1, "a", None), ballot(2, "b", 3.0)]
    found = hold_vote("mean_weighted", voters)
    assert found is not None
    assert (found.winner, found.num_votes, found.confidence) == ("b", 3, 1.0)
    majority = hold_vote("majority", voters)
    assert majority is not None
    assert majority.winner == "a"


def test_borda_votes_by_the_root_of_the_rank() -> None:
    """Four traces, the surest first: 2, sqrt 3, sqrt 2 and 1."""
    voters = [
        ballot(0, "a", certainty=3.0),
        ballot(1, "b", certainty=4.0),
        ballot(2, "a", certainty=1.0),
        ballot(3, "c", certainty=2.0),
    ]
    found = hold_vote("self_certainty_borda", voters)
    assert found is not None
    assert found.weights == pytest.approx({"a": math.sqrt(3) + 1, "b": 2.0, "c": math.sqrt(2)})
    assert (found.winner, found.num_votes, found.confidence) == ("a", 4, 2.5)


def test_borda_ranks_the_earlier_of_equally_sure_traces_first() -> None:
    found = hold_vote("self_certainty_borda", [ballot(1, "b", 1.0, 2.0), ballot(0, "a", 1.0, 2.0)])
    assert found is not None
    assert found.weights == pytest.approx({"a": math.sqrt(2), "b": 1.0})


def test_borda_ranks_those_alone_that_have_a_self_certainty() -> None:
    voters = [ballot(0, "a"), ballot(1, "b", certainty=0.0), ballot(2, "a")]
    found = hold_vote("self_certainty_borda", voters)
    assert found is not None
    assert (found.winner, found.num_votes, found.weights) == ("b", 1, {"b": 1.0})


def test_nobody_votes() -> None:
    for name in VOTES:
        assert hold_vote(name, []) is None
    for name in VOTES.keys() - {"majority"}:
        assert hold_vote(name, [ballot(0, "a", None), ballot(1, "b", 0.0)]) is None


def test_there_is_no_such_vote() -> None:
    with pytest.raises(KeyError, match="median"):
        hold_vote("median", of_groups("a"))


@given(st.sampled_from(sorted(VOTES)), BALLOTS, st.randoms())
def test_the_winner_is_the_heaviest_and_the_order_of_finishing_does_not_matter(
    name: str, voters: list[Ballot], random: Random
) -> None:
    found = hold_vote(name, voters)
    shuffled = list(voters)
    random.shuffle(shuffled)
    assert hold_vote(name, shuffled) == found
    if found is not None:
        assert found.weights[found.winner] == found.weight == max(found.weights.values()) > 0
        assert found.weights.keys() <= {one.group for one in voters}
