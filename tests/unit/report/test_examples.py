"""The answers that a method is most mistaken about."""

from __future__ import annotations

from pathlib import Path

from tests.unit.report.files import scored, uncertainty, write
from tests.unit.report.pages import report


def test_sure_and_wrong_unsure_and_right(tmp_path: Path) -> None:
    wrong = {3, 7, *range(20, 40)}
    lines = [
        uncertainty(
            text=f"Answer {n}.",
            reference=f"answer {-1 if n in wrong else n}",
            estimates={"a": n + 0.5},
            prompt=f"Question {n}?",
            id=f"id-{n}",
        )
        for n in range(40)
    ]
    page = report(tmp_path, *lines, flags=("--match", "exact"))
    first = page.text.index("Answers to look at")
    shown = page.text[first : page.text.index("All methods")]
    confident, unsure = shown.split("Least confident, and right")
    assert (
        "question Question 3? answer Answer 3. reference answer -1 a 3.5: surer than" in confident
    )
    assert 'line 4, id "id-3"' in confident
    places = [confident.index(f"Answer {n}.") for n in (3, 7, 20, 21, 22)]
    assert places == sorted(places)
    assert "Answer 23." not in confident
    places = [unsure.index(f"Answer {n}.") for n in (19, 18, 17, 16, 15)]
    assert places == sorted(places)
    assert "Answer 14." not in unsure


def test_those_of_other_methods_are_a_click_away(tmp_path: Path) -> None:
    lines = [
        uncertainty(text=f"x{n}", estimates={"a": n, "b": (7 * n) % 40}, correct=n < 20)
        for n in range(40)
    ]
    page = report(tmp_path, *lines)
    assert page.by_class["others"] == ["By others: b."]
    assert "#b" in page.links
    other = next(one for one in page.by_class["method"] if one.startswith("b "))
    assert "Most confident, and wrong" in other
    assert "x40" not in other
    assert "answer x23" in other  # (7 * 23) % 40 = 1


def test_questions_come_from_the_input_and_their_absence_is_told(tmp_path: Path) -> None:
    lines = [uncertainty(estimates={"a": n}, correct=n < 5, id=n) for n in range(9)]
    asked = [{"id": n, "messages": [{"role": "user", "content": f"Why {n}?"}]} for n in range(9)]
    path = write(tmp_path, *asked, name="in.jsonl")
    hint = "--questions with the input of the run adds them"
    assert hint in report(tmp_path, *lines).text
    page = report(tmp_path, *lines, flags=("--questions", path))
    assert hint not in page.text
    assert "question Why 5? answer Paris." in page.text


def test_scored_texts_come_from_the_input_too(tmp_path: Path) -> None:
    data = [{"uncertainty": {"perplexity": {"value": n, "exact": True}}} for n in (1, 2)]
    lines = [scored(*data, correct=[False, True]), scored(*data, correct=[True, False])]
    asked = [{"prompt": f"P{n}", "completions": [f"c{n}a", f"c{n}b"]} for n in range(2)]
    path = write(tmp_path, *asked, name="in.jsonl")
    text = report(tmp_path, *lines, flags=("--questions", path)).text
    assert "question P0 answer c0a label correct in the line perplexity 1: surer" in text
    assert "line 1, answer 2" in text


def test_long_texts_are_folded_and_very_long_ones_cut(tmp_path: Path) -> None:
    text = "word " * 5000
    lines = [uncertainty(text=text, estimates={"a": n}, correct=n < 5) for n in range(9)]
    page = report(tmp_path, *lines)
    assert page.by_class["text"][0].startswith("word word")
    assert "21000 characters more are in the file." in page.text
    assert (tmp_path / "r.html").stat().st_size < 400_000


def test_texts_keep_their_own_direction(tmp_path: Path) -> None:
    lines = [uncertainty(text="بيروت", estimates={"a": n}, correct=n < 5) for n in range(9)]
    report(tmp_path, *lines)
    assert '<p dir="auto">بيروت</p>' in (tmp_path / "r.html").read_text()
