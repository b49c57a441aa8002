"""What is read from what the model wrote."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conf_server.uncertainty import prompts
from conf_server.uncertainty.parsing import extract_answer, parse_expression, parse_probability


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
    ],
)
def test_no_expression_no_confidence(text: str) -> None:
    assert parse_expression(text) is None


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"First \boxed{1}, so \boxed{\frac{1}{2}} it is, or 3.", r"\frac{1}{2}"),
        (r"\boxed{never closed, so 5", "5"),
        ("The answer is 1,200.50.\nI checked it 3 times.", "1200.5"),
        ("**Answer:** The Eiffel Tower.", "eiffel tower"),
        ("Answer: no. Rather:\nAnswer:\n\n$-07.0$", "-7"),
        ("The answer is: (B)", "b"),
        ("The answer is 42, because 6 x 7 = 42", "42"),
        ("The answer is 42, because six times seven is that.", "42"),
        ("Answer: **1,042 apples.**", "1042"),
        ("Answer: 7 + 3 = 10", "10"),
        ("Answer: 7 + 3", "7 + 3"),
        ("Answer: 10-20 days", "10-20 days"),
        ("Answer: 5%", "5"),
        ("Answer: 3/4", "3/4"),
        ("巴黎。", "巴黎"),
        ("3 apples and 4 pears make 7 fruits", "7"),
        ("between 10-20 days", "20"),
        ("GPT-4", "gpt-4"),
        ("It is 3/4", "it is 3/4"),
        ("version 1.2.3", "version 1.2.3"),
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
