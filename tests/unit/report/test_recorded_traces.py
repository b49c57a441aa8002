"""What is read of a line of `conf-server think`."""

from __future__ import annotations

from typing import Any

import pytest

from conf_server.report.labels import Label
from conf_server.report.recorded_traces import ballots_of, question_behind, thinking_of
from tests.unit.thoughts import thought, trace


def think(*traces: dict[str, Any], **fields: Any) -> dict[str, Any]:
    found: dict[str, Any] = thought(traces, {"majority": "70"}, **fields)["think"]
    return found


def test_equal_answers_are_those_of_a_group_of_the_file() -> None:
    traces = [trace(0, "70"), trace(1, "70.0"), trace(2, "9"), trace(3, None), trace(4, "70.0")]
    groups = [
        {"answer": "70", "votes": 2, "weight": 2.0, "traces": [0, 1]},
        {"answer": "9", "votes": 1, "weight": 1.0, "traces": [2]},
    ]
    found = thinking_of(think(*traces, groups=groups))
    assert found.answers == ("70", "9")
    assert [one.group for one in found.traces] == [0, 0, 1, None, 0]
    assert found.votes == {"majority": 0}
    assert [(one.trace, one.group) for one in ballots_of(found.traces)] == [
        *((0, 0), (1, 0), (2, 1)),
        (4, 0),
    ]


def test_an_answer_of_no_group_stands_alone() -> None:
    dropped = [trace(n, "8", voted=False) for n in (1, 2)]
    found = thinking_of(think(trace(0, "70"), *dropped))
    assert found.answers == ("70", "8")
    assert [one.group for one in found.traces] == [0, 1, 1]


def test_traces_are_in_their_order_and_may_lack_scores() -> None:
    bare = trace(0, None, status="cancelled", min_conf=None, mean_conf=None, tail_conf=None)
    first, second = thinking_of(think(trace(1, "70"), bare)).traces
    assert (first.index, first.is_complete, first.scores.min_conf) == (0, False, None)
    assert (second.index, second.is_complete, second.scores.min_conf) == (1, True, 10.0)


def test_references_say_which_answers_are_right() -> None:
    found = thinking_of(think(trace(0, "70"), trace(1, "1,000")))
    question = question_behind(found, Label(references=("1000",)), "exact")
    assert question is not None
    assert [question.is_right(group) for group in (0, 1, None)] == [False, True, False]


def test_correct_is_about_the_winner_alone() -> None:
    found = thinking_of(think(trace(0, "70"), trace(1, "1,000")))
    question = question_behind(found, Label((True,), ("1000",)), "exact")
    assert question is not None
    assert question.right == (True, True)
    assert question_behind(found, Label((True,)), "exact") is None


@pytest.mark.parametrize(
    ("field", "value", "error"),
    [("min_conf", float("inf"), ValueError), ("min_conf", "high", TypeError), ("index", None, 0)],
)
def test_what_is_no_trace_is_refused(field: str, value: Any, error: Any) -> None:
    rows = [trace(0, "70"), {**trace(1, "70"), field: value}]
    with pytest.raises(error or TypeError):
        thinking_of(think(*rows))
