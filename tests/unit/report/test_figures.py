"""The figures of each method."""

from __future__ import annotations

from pathlib import Path

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
    estimates = {"maximum_sequence_probability": 0.0, "p_true": 0.0, "perplexity": -1.0, "sar": 0.5}
    lines = [uncertainty(estimates=estimates, correct=n < 3) for n in range(4)]
    cells = {row[0]: row[7] for row in report(tmp_path, *lines).rows}
    assert cells["maximum_sequence_probability"] == "0.250"
    assert cells["p_true"] == "0.250"
    assert cells["perplexity"] == "–"  # exp(1) is no probability
    assert cells["sar"] == "–"
