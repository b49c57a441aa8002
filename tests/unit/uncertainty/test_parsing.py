"""What is read from what the model wrote."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conf_server.uncertainty import prompts
from conf_server.uncertainty.evidence import Evidence
from conf_server.uncertainty.parsing import extract_answer, parse_expression, parse_probability
from conf_server.uncertainty.registry import METHODS


@pytest.mark.parametrize(
    ("text", "probability"),
    [
        ("Guess: Paris\nProbability: 0.85", 0.85),
        ("probability: 85%", 0.85),
        ("**Probability:** 1", 1),
        ("Confidence = .5", 0.5),
        ("Probability: <0.7>", 0.7),
        ("0.8.\n", 0.8),
        ("Probability: 0.2\nProbability: 0.9", 0.2),
        ("Probability: 1.5", None),
        ("Probability: -0.5", None),
        ("Probability: 0,8", None),
        ("Probability: 1/2", None),
        ("Probability: 0.0 to 1.0", None),
        ("Probability (0.0 to 1.0): high", None),
        ("I guess 0.5", None),
        ("Probability: 0.9, because I know it", 0.9),
        ("Probability: 0.9 (high)", None),
        ("Probability: 1 in 4", None),
        ("Probability: 1 out of 10", None),
        ("Probability: 1e-5", None),
        ("Probability: 1:100", None),
        ("Probability: 1 / 10", None),
        ("Probability: 1⁄2", None),
        ("Probability: 80%-90%", None),
        ("Probability: 80% to 90%", None),
        ("Probability: 0 or 1", None),
        ("", None),
    ],
)
def test_a_stated_probability(text: str, probability: float | None) -> None:
    assert parse_probability(text) == probability


@given(st.floats(0, 1).map(lambda p: round(p, 4)))
def test_every_probability_is_read_as_written(probability: float) -> None:
    assert parse_probability(f"Guess: 7\nProbability: {probability:.4f}") == probability


@pytest.mark.parametrize("expression", prompts.EXPRESSIONS)
def test_every_expression_is_read_in_any_case(expression: str) -> None:
    text = f"Guess: Very Likely Inc.\nConfidence: {expression}."
    assert parse_expression(text) == prompts.EXPRESSIONS[expression]
    assert parse_expression(text.upper()) == prompts.EXPRESSIONS[expression]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Confidence: sure",
        "Confidence: Unlikelihood",
        "Confidence: not likely",
        "Confidence: That isn't probable.",
        "Confidence: Not very likely",
        "Not very likely",
        "Confidence: Highly Likely to be wrong",
        "Confidence: I would not say Almost Certain",
        "Confidence: Likely, or Unlikely",
        "Highly Likely is what one would like to say.",
        "Confidence: Highly Likely\nConfidence: unknown",
    ],
)
def test_no_expression_no_confidence(text: str) -> None:
    assert parse_expression(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "Highly Likely",
        " highly\nlikely. ",
        "**Confidence:** Highly Likely",
        "Guess: 7\nConfidence level: <Highly Likely>\nThat is not certain at all.",
        "Confidence: Unlikely. No:\nConfidence:\n**Highly Likely**",
    ],
)
def test_an_expression_that_is_all_that_is_stated(text: str) -> None:
    assert parse_expression(text) == 0.9


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"First \boxed{1}, so \boxed{\frac{1}{2}} it is, or 3.", "0.5"),
        (r"\boxed{never closed, so 5", "5"),
        ("The answer is 1,200.50.\nI checked it 3 times.", "1200.5"),
        ("**Answer:** The Eiffel Tower.", "eiffel tower"),
        ("Answer: no. Rather:\nAnswer:\n\n$-07.0$", "-7"),
        ("The answer is: (B)", "b"),
        ("The answer is 42, because 6 x 7 = 42", "42"),
        ("The answer is 42, because six times seven is that.", "42"),
        ("Answer: **1,042 apples.**", "1042"),
        ("Answer: 7 + 3 = 10", "10"),
        ("Answer: 7 + 3", "7+3"),
        ("Answer: 10-20 days", "10-20"),
        ("Answer: 5%", "5"),
        ("Answer: 3/4", "0.75"),
        ("巴黎。", "巴黎"),
        ("3 apples and 4 pears make 7 fruits", "7"),
        ("between 10-20 days", "10-20"),
        ("GPT-4", "gpt-4"),
        ("It is 3/4", "0.75"),
        ("version 1.2.3", "1.2.3"),
        ("-0.00", "0"),
        ("  An  apple! ", "apple"),
        ("a text of more than ten words has no answer of its own at all", None),
        ("Answer:", None),
        ("", None),
    ],
)
def test_the_final_answer(text: str, answer: str | None) -> None:
    assert extract_answer(text) == answer


@given(st.integers(-(10**9), 10**9), st.sampled_from(["{}", "{:,}", "{:,}.00", "It is {}."]))
def test_a_number_is_the_same_however_it_is_written(number: int, form: str) -> None:
    assert extract_answer(form.format(number)) == str(number)


@given(st.text("\\boxed{}answer: is1,.-/%5 \n", max_size=60))
def test_an_extracted_answer_is_never_empty(text: str) -> None:
    assert extract_answer(text) != ""


ALIKE = [
    (r"\boxed{9{,}500}", r"\boxed{9\,500}", r"\boxed{9,\!500}", "9,500", "9 500", "9500.0"),
    (r"\boxed{\text{B}}", r"\boxed{B}", r"\boxed{\mathrm{(B)}}", "Answer: **B**", "B."),
    (r"\boxed{42\%}", r"\boxed{42}", "42 %", "42%", "The answer is 42 percent."),
    ("\u22125", "-5", r"\boxed{-5}", "The answer is \u20135.", "Answer: \uff0d5"),
    ("$-5", "-$5", r"\boxed{\$-5}", "Answer: -US$5", r"$-5$"),
    ("**Paris**, of course", "Paris", "Answer: **Paris**, of course!", "**Answer: Paris**. Sure."),
    (
        "1\u202f000\u202f000",
        "1 000 000",
        "1'000'000",
        "1\u2019000\u2019000",
        "1,000,000",
        "10,00,000",
    ),
    ("1 million", "1000000", "Answer: 1 million people", "1e6", r"$1 \times 10^{6}$", "10\u2076"),
    (
        "\uff14\uff12",
        "42",
        "\u0664\u0662",
        "Answer: 42 apples",
        "The answer is 42, because 6 x 7 is that.",
    ),
    ("3/4", "0.75", "\u00be", r"\boxed{\frac{3}{4}}", r"\boxed{\dfrac34}", "6/8", ".75"),
    ("1 1/2", "1\u00bd", "1.5", r"\boxed{1\frac{1}{2}}"),
    (
        r"\boxed{x = 7}",
        "Answer: 3 + 4 = 7",
        "x=7",
        r"\boxed{7 \text{ cm}}",
        r"\boxed{7\ \text{cm}^2}",
    ),
    ("July 4, 1776", "4 July 1776", "It was on 1776-07-04.", "Answer: the 4th of July 1776"),
    ("between 10 and 20, so 10-20 days", "Answer: 10 to 20 days", "10\u201320"),
]
"""Ways to say the same, all of which agree."""

APART = [
    ("3,14", "3,99", "3,14159", "314"),
    ("1 000 000", "1 500 000", "1 000", "000"),
    ("1,00,000", "1,50,000", "1,00,00,000"),
    ("1'000'000", "1'500'000"),
    ("1.000.000,50", "1.000.000,75", "1.500.000,50"),
    ("It starts at 10:30.", "It starts at 11:30.", "It starts at 10:30 pm."),
    ("Answer: 10-20 days", "Answer: 10-30 days", "Answer: 10 days"),
    ("between 10-20 days", "between 15-20 days"),
    ("May 5, 2024", "June 5, 2024", "May 6, 2024", "2024"),
    ("2.5 million", "2.5 billion", "2.5"),
    ("1e5", "1e6", "1"),
    ("1/3", "2/3", "3"),
    ("3 1/2", "4 1/2", "0.5"),
    ("Answer: 5 or 6", "Answer: 5 or 7", "Answer: 5"),
    ("Answer: 2 and a half", "Answer: 2"),
    ("Answer: 1, 2, 3", "Answer: 1, 2, 4", "Answer: 1"),
    ("1, 2, 3", "4, 2, 3", "3"),
    (r"\boxed{x=5, y=6}", r"\boxed{x=4, y=6}", r"\boxed{6}"),
    ("Answer: x >= 5", "Answer: x <= 5", "Answer: 5"),
    (r"\boxed{5\pi}", r"\boxed{5\sqrt{3}}", r"\boxed{5}"),
    ("Answer: 10%-20%", "Answer: 10%-30%", "Answer: 10%"),
    ("-5", "5", "\u00b15"),
    ("**Paris**, of course", "**Lyon**, of course"),
    ("3,140", "3.140"),
]
"""Different answers, of which a part of one may be the whole of another."""


@pytest.mark.parametrize("texts", ALIKE, ids=lambda texts: texts[0])
def test_the_same_answer_however_it_is_written(texts: tuple[str, ...]) -> None:
    assert len(set(map(extract_answer, texts))) == 1
    assert extract_answer(texts[0]) is not None


@pytest.mark.parametrize("texts", APART, ids=lambda texts: texts[0])
def test_different_answers_stay_apart(texts: tuple[str, ...]) -> None:
    answers = [extract_answer(text) for text in texts]
    assert len(set(answers)) == len(answers)
    assert None not in answers


def test_a_number_and_its_part_do_not_agree() -> None:
    samples = ("3,14", "3,99"), ("1 000 000", "1 500 000"), ("1,00,000", "1,50,000")
    for texts in samples:
        evidence = Evidence(extracted_answers=tuple(map(extract_answer, texts)))
        assert METHODS["consistency"].estimate(evidence).value == 0.5
