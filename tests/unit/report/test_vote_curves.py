"""Votes over the first traces of each question, against a count by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from conf_server.report.labels import Label
from conf_server.report.recorded_traces import Question, question_behind, thinking_of
from conf_server.report.vote_curves import vote_curves, voters
from tests.unit.thoughts import thought, trace


def question(*traces: dict[str, Any]) -> Question:
    """One whose right answer is "70"."""
    think = thought(traces, {"majority": "70"})["think"]
    found = question_behind(thinking_of(think), Label(references=("70",)), "exact")
    assert found is not None
    return found


def answers(*given: str | None, **fields: Any) -> Question:
    return question(*(trace(index, one, **fields) for index, one in enumerate(given)))


def test_accuracy_of_the_majority_by_budget() -> None:
    questions = [
        answers("70", "70", "70", "70", "70"),  # right with 1, 2, 4 and 5
        answers("9", "70", "70", "9", "70"),  # ties go to the first seen: right with 5 alone
        answers("9", "9", "9", "9", "9"),
        answers(None, "70", "9", "9", "9"),  # right with 2
    ]
    found = vote_curves(questions, 0)
    assert found is not None
    assert (found.num_questions, found.budgets) == (4, (1, 2, 4, 5))
    assert found.tokens == (100, 200, 400, 500)
    majority = found.of("majority")
    assert majority is not None
    assert [one.value for one in majority.accuracy] == [0.25, 0.5, 0.25, 0.5]
    assert majority.against_majority is None


def test_a_weighted_vote_can_be_right_where_the_majority_is_not() -> None:
    sure = [trace(0, "9", 1.0), trace(1, "9", 1.0), trace(2, "70", 5.0)]
    found = vote_curves([question(*sure), answers("70", "9", "70")], 0)
    assert found is not None
    weighted = found.of("min_window_weighted")
    assert weighted is not None
    assert weighted.accuracy[-1].value == 1.0
    assert weighted.against_majority is not None
    assert weighted.against_majority.value == 0.5


def test_intervals_are_of_draws_of_questions() -> None:
    questions = [answers("70") if n < 30 else answers("9") for n in range(100)]
    found = vote_curves(questions, 3)
    assert found is not None
    interval = found.curves[0].accuracy[0].interval
    assert interval is not None
    half_width = 1.96 * np.sqrt(0.3 * 0.7 / 100)
    assert interval == pytest.approx((0.3 - half_width, 0.3 + half_width), abs=0.02)
    assert vote_curves(questions, 3) == found
    assert vote_curves(questions, 4) != found


def test_a_question_that_ended_early_keeps_what_it_has() -> None:
    found = vote_curves([answers("70"), answers("9", "9", "9", "9")], 0)
    assert found is not None
    assert found.tokens == (100, 150, 250)
    assert [one.value for one in found.curves[0].accuracy] == [0.5, 0.5, 0.5]


def test_a_vote_without_its_scores_is_silent() -> None:
    found = vote_curves([answers("70", "9", certainty=None)], 0)
    assert found is not None
    assert found.silent == ("self_certainty_borda",)
    assert found.of("self_certainty_borda") is None


def test_those_vote_that_voted_in_the_run() -> None:
    passed, dropped = trace(1, "9"), trace(0, "70", voted=False)
    stopped = trace(2, None, status="stopped_low_confidence")
    traces = question(passed, dropped, stopped).traces
    assert [one.trace for one in voters(traces)] == [1]
    assert [one.trace for one in voters(traces[:1])] == [0]


def test_no_question_no_curves() -> None:
    assert vote_curves([], 0) is None
