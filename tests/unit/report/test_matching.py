"""When an answer agrees with its reference."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conf_server.report.matching import matches, normalized


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("Paris", "paris."),
        ("The Beatles", "Beatles"),
        ("  New\n York ", "new york"),
        ("U.S.A.", "usa"),
        ("don't", "don’t"),
        ("1,000,000", "1000000"),
        ("-3.5", "−3.5"),
        ("“Straße”", "STRASSE"),
        ("well-known", "well known"),
        ("Ｐａｒｉｓ", "Paris"),
        ("(B)", "b"),
        ("−5", "-5"),
        ("555-1234", "555 1234"),
        ("½", "1/2"),
    ],
)
def test_the_same(left: str, right: str) -> None:
    assert normalized(left) == normalized(right)
    assert matches(left, [right], "exact")


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("5", "-5"),
        ("$5", "-$5"),
        (".5", "-.5"),
        ("1e5", "1e-5"),
        ("C++", "C"),
        ("<5", ">5"),
        ("3.5", "35"),
        ("1,5", "15"),
        ("A", "B"),
        ("A", "the"),
        ("Paris", "Paris, France"),
        ("année", "annee"),
        ("12-7", "127"),
    ],
)
def test_not_the_same(left: str, right: str) -> None:
    assert not matches(left, [right], "exact")


@pytest.mark.parametrize(
    ("answer", "reference", "expected"),
    [
        ("The capital of France is Paris.", "Paris", True),
        ("Paris—the capital", "paris", True),
        ("They are The Beatles, I think", "the Beatles", True),
        ("It is 14.", "4", False),
        ("It is -4.", "4", False),
        ("x=-4", "4", False),
        ("x=-4", "-4", True),
        ("A loss of -$4.", "4", False),
        ("4e-5", "5", False),
        ("12-7=5", "5", True),
        ("12-7=5", "7", True),
        ("12-7=5", "-7", False),
        ("f(3)-7", "7", True),
        ("12+7=19", "19", True),
        ("x=19", "19", True),
        ("It costs $5.", "5", True),
        ("19°C", "19", True),
        ("~19", "19", True),
        ("`19`", "19", True),
        ("$1,234.5", "1234.5", True),
        ("$1,234.5", "5", False),
        ("<b>Paris</b>", "Paris", True),
        ("The limit is ∞", "∞", True),
        ("a+b", "a + b", True),
        ("new times in york", "New York", False),
        ("", "x", False),
    ],
)
def test_contained_words(answer: str, reference: str, expected: bool) -> None:
    assert matches(answer, [reference], "contains") is expected


def test_one_of_several_references_is_enough() -> None:
    assert matches("UK", ["United Kingdom", "uk"], "exact")
    assert not matches("UK", [], "exact")


@pytest.mark.parametrize("match", ["exact", "contains"])
def test_an_empty_reference_would_match_anything(match: str) -> None:
    with pytest.raises(ValueError, match="nothing to compare"):
        matches("x", ["?!"], match)  # type: ignore[arg-type]


@given(st.text())
def test_normalised_text_equals_itself(text: str) -> None:
    if normalized(text):
        assert matches(text, [text], "exact")
        assert matches(text, [text], "contains")
