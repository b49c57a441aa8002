"""Warnings: labels that are all the same, with an answer and its reference."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.report.files import uncertainty
from tests.unit.report.pages import report


def test_all_wrong_labels_are_a_warning_with_an_example(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [
        uncertainty(text="It is \x1b[2J Paris.", reference="Paris", estimates={"a": n})
        for n in range(5)
    ]
    page = report(tmp_path, *lines, flags=("--match", "exact"))
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("conf-server report: warning: ")
    assert line.endswith(
        'All 5 labels say wrong. For example line 1: the answer "It is \\x1b[2J Paris." and the '
        'reference "Paris", by `--match exact`. Would `--match contains` fit?'
    )
    (warning,) = page.by_class["warning"]
    assert warning.startswith("All 5 labels say wrong. For example line 1")


def test_all_right_labels_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [uncertainty(correct=True, estimates={"a": n}) for n in range(5)]
    report(tmp_path, *lines)
    assert "All 5 labels say right. They are `correct` in the lines" in capsys.readouterr().err


def test_labels_of_both_kinds_are_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [uncertainty(correct=n > 0, estimates={"a": n}) for n in range(5)]
    assert "warning" not in report(tmp_path, *lines).by_class
    assert capsys.readouterr().err == ""
