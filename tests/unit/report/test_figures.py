"""The figures of each method."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conf_server.report.figures import MethodFigures, method_figures
from tests.unit.report.files import judged, uncertainty, write
from tests.unit.report.pages import report


def figures(folder: Path, *lines: Any) -> list[MethodFigures]:
    return method_figures(judged(write(folder, *lines), "exact"), 0, resamples=10)


def test_each_method_counts_the_answers_that_it_has(tmp_path: Path) -> None:
    lines = [
        uncertainty(estimates={"a": 1}, correct=True),
        uncertainty(estimates={"a": 2, "late": 5}, correct=False),
        uncertainty(estimates={"a": None, "late": 3}, correct=None),
        uncertainty(estimates={"a": 4}),
    ]
    found = {one.name: one for one in figures(tmp_path, *lines)}
    assert {name: (one.values.size, one.labelled) for name, one in found.items()} == {
        "a": (3, 2),
        "late": (2, 1),
    }
    assert found["a"].values.tolist() == [1, 2, 4]
    assert found["late"].values.tolist() == [5, 3]


def test_ece_only_of_what_is_a_probability(tmp_path: Path) -> None:
    estimates = {"maximum_sequence_probability": 0.0, "p_true": 0.0, "perplexity": 0.5, "sar": 0.5}
    lines = [uncertainty(estimates=estimates, correct=n < 3) for n in range(4)]
    found = {one.name: one.ece for one in figures(tmp_path, *lines)}
    assert found["maximum_sequence_probability"].value == pytest.approx(0.25)
    assert found["p_true"].value == pytest.approx(0.25)
    assert found["perplexity"].reason == "values lie outside [0, 1]"  # 1 / 0.5 is no probability.
    assert found["sar"].reason == "its values are no probabilities"


@pytest.mark.parametrize(
    ("name", "value", "confidence"),
    [("perplexity", 4.0, 0.25), ("p_true", math.log(4), 0.25), ("deg_mat", 0.75, 0.25)],
)
def test_what_confidence_a_value_stands_for(
    tmp_path: Path, name: str, value: float, confidence: float
) -> None:
    (one,) = figures(tmp_path, *[uncertainty(estimates={name: value}, correct=True)] * 2)
    assert one.ece.value == pytest.approx(1 - confidence)


def test_a_huge_perplexity_ties_no_others(tmp_path: Path) -> None:
    lines = [
        uncertainty(estimates={"perplexity": value}, correct=correct)
        for value, correct in ((1.25, True), (1.5, False), (1e13, False))
    ]
    (row,) = (row for row in report(tmp_path, *lines).rows if row[0] == "perplexity")
    assert row[1].startswith("1.000")


def test_how_many_errors_are_left(tmp_path: Path) -> None:
    lines = [uncertainty(estimates={"a": n}, correct=n not in (3, 8, 9)) for n in range(10)]
    (one,) = figures(tmp_path, *lines)
    assert (one.wrong_share, one.risk.value) == (0.3, 0.125)


def test_a_value_for_few_of_the_answers_is_drawn_with_all_of_them(tmp_path: Path) -> None:
    """So that the draws of two methods are of the same answers, whichever of them have values."""
    lines = [
        uncertainty(estimates={"a": n % 7, "b": n % 7 if n % 2 else None}, correct=n % 3 > 0)
        for n in range(60)
    ]
    a, b = sorted(figures(tmp_path, *lines), key=lambda one: one.name)
    assert not np.array_equal(a.auroc_draws, b.auroc_draws)
    (same,) = figures(tmp_path, *[line for n, line in enumerate(lines) if n % 2])[1:]
    assert b.auroc.value == same.auroc.value
