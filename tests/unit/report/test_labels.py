"""Labels of a line: what `correct` and `reference` may be."""

from __future__ import annotations

from typing import Any

import pytest

from conf_server.report.labels import Label, LabelError, parse_label


@pytest.mark.parametrize(
    ("line", "count", "expected"),
    [
        ({}, 1, Label()),
        ({"correct": None, "reference": None}, 1, Label()),
        ({"correct": True}, 1, Label((True,))),
        ({"correct": [True, None]}, 2, Label((True, None))),
        ({"correct": [True, None]}, None, Label((True, None))),
        ({"reference": "a"}, 3, Label(references=("a",))),
        ({"reference": ["a", "b"], "correct": False}, 1, Label((False,), ("a", "b"))),
        ({"reference": []}, 1, Label()),
    ],
)
def test_labels_that_can_be_meant(line: dict[str, Any], count: int | None, expected: Label) -> None:
    assert parse_label(line, count) == expected


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"correct": "yes"}, "`correct` must be true or false"),
        ({"correct": 0}, "`correct` must be true or false"),
        ({"correct": [True, 1]}, "`correct` must be true or false"),
        ({"correct": True}, "one `correct` for 2 answers"),
        ({"correct": [True]}, "`correct` has 1 values for 2 answers"),
        ({"reference": 42}, "`reference` must be a text"),
        ({"reference": {"text": "a"}}, "`reference` must be a text"),
        ({"reference": ["a", None]}, "`reference` must be a text"),
        ({"reference": ""}, "nothing is left to compare"),
        ({"reference": ["a", " ... "]}, "nothing is left to compare"),
    ],
)
def test_labels_that_cannot(line: dict[str, Any], message: str) -> None:
    with pytest.raises(LabelError, match=message):
        parse_label(line, 2)


def test_correct_wins_and_the_reference_answers_where_it_says_nothing() -> None:
    label = parse_label({"correct": [False, None], "reference": "Paris"}, 2)
    assert label.of(0, "Paris", "exact") == (False, "")
    assert label.of(1, "Paris.", "exact") == (True, "")
    assert label.of(1, [1, 2], "exact") == (None, "a `reference`, but no answer text")
    assert Label().of(0, "Paris", "exact") == (None, "neither `correct` nor `reference`")
