"""`extract: choice`: the box, the answer's label, the last that stands alone."""

from __future__ import annotations

import pytest

from conf_server.refusal import RefusalError
from conf_server.thinking.choice_answers import choice_finder

LETTERS = ("A", "B", "C", "D")


@pytest.mark.parametrize(
    ("text", "choice"),
    [
        (r"Answer: C, so \boxed{B}", "B"),
        (r"$\boxed{\text{(D)}}$", "D"),
        (r"\boxed{A} no, \boxed{ \mathrm{B}. }", "B"),
        (r"\boxed{42}, which is C", "C"),
        (r"\boxed{AB}, which is C", "C"),
        ("The answer is (B). C and D are wrong.", "B"),
        ("**Answer:** C\nA train", "C"),
        ("Final answer: option D", "D"),
        ("The correct answer would be **A)** 5 km", "A"),
        (r"Answer: $\text{A}$ and B", "A"),
        ("The answer is A. Wait: the answer is B.", "B"),
        ("The answer is 5, so C, not a", "C"),
        ("Answer: Area. B", "B"),
        ("B, or A-level, A's, A_1, CA", "B"),
        ("a b c d", None),
        ("", None),
    ],
)
def test_letters(text: str, choice: str | None) -> None:
    assert choice_finder(LETTERS)(text, 0) == choice


@pytest.mark.parametrize(
    ("choices", "text", "choice"),
    [
        (("Yes", "No"), "yes. I know: NO.", "No"),
        (("New York", "New York City", "York"), "It is new york city.", "New York City"),
        (("New York", "York"), "New York", "New York"),
        (("(i)", "(ii)"), "(i) and not (ii)x", "(ii)"),
        (("Straße", "İzmir"), "İİ STRAßE", "Straße"),
        (("1", "2"), "12 1.", "1"),
        (("a", "b", "A"), "a A", "A"),
        ((" Yes ", "No"), "yes", "Yes"),
    ],
)
def test_words(choices: tuple[str, ...], text: str, choice: str | None) -> None:
    assert choice_finder(choices)(text, 0) == choice


def test_what_stands_before_the_beginning_is_seen() -> None:
    assert choice_finder(LETTERS)("CA", 1) is None
    assert choice_finder(LETTERS)("C A", 1) == "A"


@pytest.mark.parametrize(
    "choices",
    [
        ("A",),
        tuple(map(str, range(65))),
        ("A", " "),
        ("A", "A"),
        ("Yes", "YES"),
        ("a" * 2000, "b"),
    ],
)
def test_choices_that_are_none_are_refused(choices: tuple[str, ...]) -> None:
    with pytest.raises(RefusalError) as refused:
        choice_finder(choices)
    assert refused.value.field == "think.answer.choices"
