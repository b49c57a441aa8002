"""The figures of each method."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from conf_server.report.answers import read_answers
from conf_server.report.figures import method_figures
from tests.unit.report.files import uncertainty, write
from tests.unit.report.pages import report


def test_each_method_counts_the_answers_that_it_has(tmp_path: Path) -> None:
    lines = [
        uncertainty(estimates={"a": 1}, correct=True),
        uncertainty(estimates={"a": 2, "late": 5}, correct=False),
        uncertainty(estimates={"a": None, "late": 3}, correct=None),
        uncertainty(estimates={"a": 4}),
    ]
    answers = read_answers(write(tmp_path, *lines), "exact")
    found = {one.name: one for one in method_figures(answers, 0, resamples=10)}
    assert {name: (one.values.size, one.labelled) for name, one in found.items()} == {
        "a": (3, 2),
        "late": (2, 1),
    }
    assert found["a"].values.tolist() == [1, 2, 4]
    assert found["late"].values.tolist() == [5, 3]


def test_ece_only_of_what_is_a_probability(tmp_path: Path) -> None:
    estimates = {"maximum_sequence_probability": 0.0, "p_true": 0.0, "perplexity": 0.5, "sar": 0.5}
    lines = [uncertainty(estimates=estimates, correct=n < 3) for n in range(4)]
    cells = {row[0]: row[7] for row in report(tmp_path, *lines).rows}
    assert cells["maximum_sequence_probability"] == "0.250"
    assert cells["p_true"] == "0.250"
    assert cells["perplexity"] == "–"  # 1 / 0.5 is no probability
    assert cells["sar"] == "–"


@pytest.mark.parametrize(
    ("name", "value", "confidence"),
    [("perplexity", 4.0, 0.25), ("p_true", math.log(4), 0.25), ("deg_mat", 0.75, 0.25)],
)
def test_what_confidence_a_value_stands_for(
    tmp_path: Path, name: str, value: float, confidence: float
) -> None:
    lines = [uncertainty(estimates={name: value}, correct=True) for _ in range(4)]
    (row,) = (row for row in report(tmp_path, *lines).rows if row[0] == name)
    assert row[7] == f"{1 - confidence:.3f}"


def test_a_huge_perplexity_ties_no_others(tmp_path: Path) -> None:
    lines = [
        uncertainty(estimates={"perplexity": value}, correct=correct)
        for value, correct in ((1.25, True), (1.5, False), (1e13, False))
    ]
    (row,) = (row for row in report(tmp_path, *lines).rows if row[0] == "perplexity")
    assert row[5].startswith("1.000")
