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
    ],
)
def test_the_same(left: str, right: str) -> None:
    assert normalized(left) == normalized(right)
    assert matches(left, [right], "exact")


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("5", "-5"),
        ("3.5", "35"),
        ("1,5", "15"),
        ("A", "B"),
        ("A", "the"),
        ("Paris", "Paris, France"),
        ("année", "annee"),
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
