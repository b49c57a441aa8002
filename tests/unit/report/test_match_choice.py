"""`--match auto`: which comparison is chosen, and that it is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.unit.report.files import scored, uncertainty
from tests.unit.report.pages import report


def test_a_chat_s_sentences_against_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [
        uncertainty(text=f"The capital is {name}.", reference="Paris", estimates={"a": n})
        for n, name in enumerate(["Paris", "Rome", "Paris"])
    ]
    page = report(tmp_path, *lines)
    why = "--match auto chose `contains`: answers have 3 words in the middle, references 1."
    captured = capsys.readouterr()
    assert captured.err == f"conf-server report: {why}\n"
    assert why in captured.out
    assert why.replace("`", "") in page.text
    assert "3 with a label, 2 of them correct" in page.text


@pytest.mark.parametrize(
    ("text", "reference", "chosen"),
    [
        ("Paris.", "Paris", "exact"),
        ("New York City", "New York", "exact"),
        (
            "The capital of France is Paris",
            ["Paris", "the French city of Paris, of course"],
            "exact",
        ),
        ("A long summary of many words", "Another long summary of many words", "exact"),
        ("It is a choice that I would call A", "A", "exact"),
        ("It is 42, I think", "42", "contains"),
    ],
)
def test_what_is_chosen(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, reference: Any, chosen: str
) -> None:
    lines = [uncertainty(text=text, reference=reference, estimates={"a": n}) for n in range(3)]
    report(tmp_path, *lines)
    assert f"--match auto chose `{chosen}`: " in capsys.readouterr().err


@pytest.mark.parametrize("match", ["exact", "contains"])
def test_what_the_user_chose_needs_no_word(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], match: str
) -> None:
    lines = [
        uncertainty(text="It is Paris", reference=name, estimates={"a": n})
        for n, name in enumerate(["Paris", "It is Paris"])
    ]
    page = report(tmp_path, *lines, flags=("--match", match))
    err = capsys.readouterr().err
    assert "auto" not in err + page.text
    assert ("warning" in err) == (match == "contains")  # Then all are right.


def test_labels_that_need_no_comparison_choose_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = {"uncertainty": {"perplexity": {"value": 1, "exact": True}}}
    lines = [scored(data, completion="a b c d", reference="a", correct=n > 1) for n in range(4)]
    report(tmp_path, *lines)
    assert capsys.readouterr().err == ""
