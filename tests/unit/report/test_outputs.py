"""What is read of an output: values, labels, and lines that count for nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conf_server.report.json_lines import ReportError
from tests.unit.report.files import good_lines, judged, scored, uncertainty, write


def labels(folder: Path, *lines: Any, match: Any = "exact") -> list[bool | None]:
    return judged(write(folder, *lines), match).correct


def test_scores_of_several_completions(tmp_path: Path) -> None:
    data = [
        {
            "uncertainty": {
                "perplexity": {"value": n, "exact": True},
                "fisher_rao": {"value": None, "exact": False},
            },
            "confidence_summary": {"mean_confidence": 9 - n},
        }
        for n in range(3)
    ]
    answers = judged(write(tmp_path, scored(*data, correct=[True, False, None])), "exact")
    assert answers.correct == [True, False, None]
    assert answers.columns["perplexity"].uncertainty().tolist() == [0, 1, 2]
    assert answers.columns["mean_confidence"].uncertainty().tolist() == [-9, -8, -7]
    assert answers.columns["fisher_rao"].sign == 1
    assert np.isnan(answers.columns["fisher_rao"].uncertainty()).all()


def test_completions_are_held_against_the_reference(tmp_path: Path) -> None:
    data = [{"uncertainty": {"perplexity": {"value": n, "exact": True}}} for n in range(2)]
    texts = [" Paris.", " Berlin."]
    assert labels(tmp_path, scored(*data, completions=texts, reference="paris")) == [True, False]
    assert labels(tmp_path, scored(data[0], completion=" Paris", reference=["x", "Paris"])) == [
        True
    ]
    assert labels(tmp_path, scored(data[0], completion=[1, 2], reference="Paris")) == [None]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"correct": True}, True),
        ({"correct": False, "reference": "Paris"}, False),
        ({"correct": None, "reference": "Paris"}, True),
        ({"reference": ["London", "paris"]}, True),
        ({"reference": "London"}, False),
        ({"reference": []}, None),
        ({}, None),
    ],
)
def test_labels(tmp_path: Path, fields: dict[str, Any], expected: bool | None) -> None:
    assert labels(tmp_path, uncertainty(**fields)) == [expected]


def test_the_match_can_be_chosen(tmp_path: Path) -> None:
    line = uncertainty(text="It is Paris, of course.", reference="Paris")
    assert labels(tmp_path, line) == [False]
    assert labels(tmp_path, line, match="contains") == [True]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (uncertainty(estimates={"a": "high"}), "'high' is not a number"),
        (uncertainty(estimates={"a": 10**400}), "a number that no double can hold"),
        ({"line": 1, "result": {"object": "list"}}, "object 'list' is neither"),
        ({"line": 1}, "no 'result'"),
        ([1], "not a JSON object"),
    ],
)
def test_a_line_that_cannot_be_meant_is_named(tmp_path: Path, line: Any, message: str) -> None:
    path = write(tmp_path, uncertainty(), line)
    with pytest.raises(ReportError, match="line 2") as refused:
        judged(path, "exact")
    assert message in str(refused.value)


def test_a_method_keeps_its_direction(tmp_path: Path) -> None:
    turned = {"a": {"value": 1, "exact": True, "higher_is": "less uncertain"}}
    path = write(tmp_path, uncertainty(estimates={"a": 1}), uncertainty(estimates=turned))
    with pytest.raises(ReportError, match="higher_is differs"):
        judged(path, "exact")


def test_gzip(tmp_path: Path) -> None:
    path = write(tmp_path, *good_lines(9), name="out.jsonl.gz")
    assert len(judged(path, "exact")) == 9
    Path(path).write_bytes(Path(path).read_bytes()[:-20])
    with pytest.raises(ReportError, match=r"out\.jsonl\.gz"):
        judged(path, "exact")


def test_a_damaged_member(tmp_path: Path) -> None:
    path = write(tmp_path, *good_lines(9), name="out.jsonl.gz")
    damaged = bytearray(Path(path).read_bytes())
    damaged[60] ^= 0xFF
    Path(path).write_bytes(damaged)
    with pytest.raises(ReportError, match=r"out\.jsonl\.gz: "):
        judged(path, "exact")


def test_depth_is_no_traceback(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.write_text("[" * 100_000)
    with pytest.raises(ReportError, match="line 1: "):
        judged(str(path), "exact")


def test_lines_without_anything_on_them_are_skipped(tmp_path: Path) -> None:
    path = Path(write(tmp_path, uncertainty(), uncertainty()))
    path.write_text("\n" + path.read_text().replace("\n", "\n \n") + "\n\n")
    assert len(judged(str(path), "exact")) == 2


BAD_LABELS = [
    ({"correct": "yes"}, "`correct` must be true or false, or a list of these"),
    ({"correct": 1}, "`correct` must be true or false, or a list of these"),
    ({"reference": 42}, "`reference` must be a text or a list of texts"),
    ({"reference": ""}, "`reference` has a text of which nothing is left to compare"),
]


@pytest.mark.parametrize(("label", "why"), BAD_LABELS)
def test_a_bad_label_counts_as_none_and_the_other_answers_stay(
    tmp_path: Path, label: dict[str, Any], why: str
) -> None:
    lines = [uncertainty(correct=True), uncertainty(**label), uncertainty(**label)]
    answers = judged(write(tmp_path, *lines), "exact")
    assert answers.correct == [True, None, None]
    assert {reason: list(places) for reason, places in answers.bad_labels.items()} == {why: [2, 3]}


def test_one_label_for_two_completions_is_a_bad_one(tmp_path: Path) -> None:
    answers = judged(write(tmp_path, scored({}, {}, correct=True)), "exact")
    assert answers.correct == [None, None]
    assert list(answers.bad_labels) == ["one `correct` for 2 answers; give a list"]


def test_a_repeated_answer_counts_once(tmp_path: Path) -> None:
    lines = [uncertainty(line=1, correct=True), uncertainty(line=2), uncertainty(line=1)]
    answers = judged(write(tmp_path, *lines), "exact")
    assert answers.correct == [True, None]
    assert list(answers.repeated) == [3]


@pytest.mark.parametrize("other", [{"server": "b"}, {"request": "2"}, {"line": 9}])
def test_what_another_server_or_request_has_answered_is_no_repetition(
    tmp_path: Path, other: dict[str, Any]
) -> None:
    one = {**uncertainty(), "line": 1, "server": "a"}
    answers = judged(write(tmp_path, one, {**one, **other}), "exact")
    assert (len(answers), list(answers.repeated)) == (2, [])


def test_a_completion_may_be_an_object_with_its_text(tmp_path: Path) -> None:
    data = {"uncertainty": {"perplexity": {"value": 1, "exact": True}}}
    given = {"text": " Paris.", "finished": True}
    assert labels(tmp_path, scored(data, completion=given, reference="Paris")) == [True]
