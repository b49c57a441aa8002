"""`conf-server report --labels`: which answers the labels of another file are about."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from conf_server.report.json_lines import ReportError
from conf_server.report.labels_file import read_labels_file
from tests.unit.report.files import judged, scored, uncertainty, write

WRONG = {"correct": False}


def labelled(folder: Path, answers: list[Any], labels: list[Any]) -> list[bool | None]:
    """Whether the answers are correct, with labels from another file."""
    path = folder / "labels.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in labels))
    return judged(write(folder, *answers), "exact", read_labels_file(str(path))).correct


def test_by_the_number_of_the_inputs_line(tmp_path: Path) -> None:
    answers = [{**uncertainty(), "line": 7}, {**uncertainty(correct=True), "line": 3}]
    assert labelled(tmp_path, answers, [{"line": 3, **WRONG}]) == [None, False]


@pytest.mark.parametrize("name", ["a", 5, ["a", 1], {"x": 1, "y": 2}])
def test_by_the_id(tmp_path: Path, name: Any) -> None:
    answers = [uncertainty(id="other"), uncertainty(id=name)]
    assert labelled(tmp_path, answers, [{"id": name, **WRONG}]) == [None, False]


def test_the_order_of_an_ids_fields_says_nothing(tmp_path: Path) -> None:
    answers = [uncertainty(id={"x": 1, "y": 2})]
    assert labelled(tmp_path, answers, [{"id": {"y": 2, "x": 1}, **WRONG}]) == [False]


def test_the_input_itself_with_other_labels(tmp_path: Path) -> None:
    answers = [{**uncertainty(text="Bonn", reference="Berlin"), "line": 2}, uncertainty()]
    answers[1]["line"] = 1
    labels = [{"prompt": "Capital of France?"}, {"prompt": "Of Germany?", "reference": "Bonn"}]
    assert labelled(tmp_path, answers, labels) == [True, None]
    with_ids = [{**line, "id": name} for name, line in zip("ba", answers, strict=True)]
    assert labelled(
        tmp_path,
        with_ids,
        [{"messages": [], "id": "b", **WRONG}, {"messages": [], "id": "a", "reference": "Paris"}],
    ) == [False, True]


def test_null_takes_a_label_back_and_nothing_leaves_it(tmp_path: Path) -> None:
    answers = [uncertainty(correct=True), uncertainty(correct=True, reference="x")]
    assert labelled(tmp_path, answers, [{"line": 1}, {"line": 2, "correct": None}]) == [True, None]


def test_the_input_brings_the_texts_that_scores_lack(tmp_path: Path) -> None:
    data = {"uncertainty": {"perplexity": {"value": 1, "exact": True}}}
    answers = [scored(data, data), scored(data)]
    labels = [
        {"prompt": "p", "completions": [" Paris.", " Berlin."], "reference": "Paris"},
        {"line": 2, "reference": "Paris"},
    ]
    assert labelled(tmp_path, answers, labels) == [True, False, None]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([{"correct": True}], "line 1: which answer? Give `line`"),
        ([{"line": 0, "correct": True}], "line 1: `line` must be a number from 1 on, got 0"),
        ([{"line": "2", "correct": True}], "line 1: `line` must be a number from 1 on"),
        ([{"line": 2, "correct": "yes"}], "line 1: `correct` must be true or false"),
        ([{"line": 2, "reference": "?"}], "line 1: `reference` has a text of which nothing"),
        ([{"line": 2, **WRONG}] * 2, "line 2: line 1 has a label of the same answer"),
        ([{"id": "a", **WRONG}] * 2, "line 2: line 1 has a label of the same answer"),
        ([{"line": 2, "id": "b", **WRONG}], 'line 1: the answer to line 2 has the id "a", not "b"'),
        ([{"id": "a", **WRONG}], 'line 1: the id "a" is that of the answers to line 1 and line 2'),
        ([{"line": 1, "label": True}], "no `correct` and no `reference` in it"),
        ([[1]], "line 1: not a JSON object"),
    ],
)
def test_labels_of_no_answer_or_of_two_are_refused(
    tmp_path: Path, labels: list[Any], message: str
) -> None:
    with pytest.raises(ReportError) as refused:
        labelled(tmp_path, [uncertainty(id="a"), uncertainty(id="a")], labels)
    assert f"labels.jsonl: {message}" in str(refused.value)


def test_what_no_answer_is_found_for_is_known(tmp_path: Path) -> None:
    lines = [{"id": "a", **WRONG}, {"line": 9, **WRONG}, {"line": 1, **WRONG}]
    labels = tmp_path / "labels.jsonl"
    labels.write_text("".join(json.dumps(line) + "\n" for line in lines))
    file = read_labels_file(str(labels))
    file.applied_to({**uncertainty(), "line": 1})
    assert file.unused == [1, 2]
