"""Thresholds replayed over complete traces, against a count by hand."""

from __future__ import annotations

from typing import Any

from conf_server.report.early_stop_cost import SHARES, StopCost, StopCosts, stop_costs
from conf_server.report.recorded_traces import Question
from tests.unit.report.test_vote_curves import question
from tests.unit.thoughts import trace


def costs_of(*questions: Question, vote: str = "majority") -> StopCosts:
    found = stop_costs(questions, vote, 0)
    assert found is not None
    return found


def at(found: StopCosts, share: float) -> StopCost:
    return found.costs[SHARES.index(share)]


def ten(**by_index: Any) -> Question:
    """Traces 0 to 9 with confidences 0 to 9; answers by index, "9" elsewhere."""
    given = [by_index.get(f"t{n}", "9") for n in range(10)]
    return question(*(trace(n, answer, float(n)) for n, answer in enumerate(given)))


def test_right_and_wrong_traces_that_are_dropped() -> None:
    found = costs_of(ten(t0="70", t9="70"))
    assert (found.num_questions, found.right, found.wrong, found.from_warmup) == (1, 2, 8, 0)
    # The threshold that keeps half lies at 4.5: traces 0 to 4 are below it.
    half = at(found, 0.5)
    assert (half.right_dropped.value, half.wrong_dropped.value) == (0.5, 4 / 8)
    least = at(found, 0.1)
    assert (least.right_dropped.value, least.wrong_dropped.value) == (0.5, 1.0)


def test_questions_whose_vote_turns() -> None:
    turns_wrong = ten(**{f"t{n}": "70" for n in range(6)})
    turns_right = ten(t6="70", t7="70", t8="70", t9="70")
    found = costs_of(turns_wrong, turns_right)
    assert found.accuracy.value == 0.5
    half = at(found, 0.5)
    assert (half.lost, half.won, half.accuracy.value) == (1, 1, 0.5)
    nine = at(found, 0.9)
    assert (nine.lost, nine.won) == (0, 0)


def test_the_warm_up_sets_the_threshold_where_there_is_one() -> None:
    warm = [trace(n, "9", 10.0 + n, phase="warmup") for n in range(2)]
    final = [trace(2 + n, "70", 5.0) for n in range(3)]
    found = costs_of(question(*warm, *final))
    assert found.from_warmup == 1
    assert all(one.right_dropped.value == 1.0 for one in found.costs)
    assert all((one.lost, one.accuracy.value) == (1, 0.0) for one in found.costs)


def test_nothing_is_guessed_of_traces_that_were_stopped() -> None:
    whole = [trace(n, "70", float(n)) for n in range(4)]
    stopped = [
        trace(4 + n, None, -5.0, status=status)
        for n, status in enumerate(("stopped_low_confidence", "cancelled"))
    ]
    assert costs_of(question(*whole, *stopped)) == costs_of(question(*whole))


def test_without_a_confidence_there_is_nothing_to_replay() -> None:
    assert stop_costs([question(trace(0, "70", min_conf=None))], "majority", 0) is None
    assert stop_costs([], "majority", 0) is None


def test_a_share_of_no_traces_has_no_value() -> None:
    found = costs_of(question(trace(0, "70", 1.0), trace(1, "70", 2.0)))
    assert at(found, 0.5).wrong_dropped.value is None
    assert at(found, 0.5).right_dropped.value == 0.5
