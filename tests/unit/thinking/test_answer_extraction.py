"""Rules of extraction as a request states them, and `boxed` and `text`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conf_server.refusal import RefusalError
from conf_server.thinking.answer_extraction import (
    CHARACTERS_READ,
    LONGEST_ANSWER,
    AnswerRule,
    extractor,
)

BOXED: Final[dict[str, Any]] = json.loads(
    (Path(__file__).parent / "vectors" / "boxed.json").read_text(encoding="utf-8")
)
RULES: Final = (
    AnswerRule("boxed"),
    AnswerRule("regex", pattern=r"(?i)answer\W+(\w+)"),
    AnswerRule("choice", choices=("A", "B", "New York", "answer", "ß")),
    AnswerRule("json", key="answer"),
    AnswerRule("json", key="/answer/0"),
    AnswerRule("text"),
)
PIECES: Final = (
    *(r"\boxed{", "{", "}", "$", "answer", "Answer: ", "A", "B", " ", "\n", "new york", "(", ")"),
    *('{"answer":', '"', "[", "]", ",", "1e999", "NaN", "\\", "\ud800", "\0", "İ", "ß", "答"),
)
TEXTS: Final = st.one_of(st.text(), st.lists(st.sampled_from(PIECES)).map("".join))


def test_deepconf_s_own_answers_are_recorded() -> None:
    assert BOXED["commit"] == "675529d"
    assert len(BOXED["cases"]) >= 200
    assert len({answer for _, answer in BOXED["cases"]}) > 100


def test_boxed_is_what_deepconf_s_code_says() -> None:
    """An empty answer, which its votes pass over, is none here."""
    boxed = extractor(AnswerRule())
    for text, answer in BOXED["cases"]:
        assert boxed(text) == (answer or None), text


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"It is $\boxed{70}$.", "70"),
        (r"\boxed{1} and then \boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{70", "70"),
        (r"\boxed 5$ apples", "5"),
        ("none", None),
        (r"\boxed{ }", None),
    ],
)
def test_boxed(text: str, answer: str | None) -> None:
    assert extractor(AnswerRule("boxed"))(text) == answer


def test_the_whole_text() -> None:
    text = extractor(AnswerRule("text"))
    assert text(" Paris\n") == "Paris"
    assert text(" \n") is None


def test_an_answer_that_is_too_long_is_none() -> None:
    boxed = extractor(AnswerRule("boxed"))
    assert boxed(rf"\boxed{{{'9' * LONGEST_ANSWER}}}") == "9" * LONGEST_ANSWER
    assert boxed(rf"\boxed{{{'9' * (LONGEST_ANSWER + 1)}}}") is None


@pytest.mark.parametrize("rule", RULES)
@given(text=TEXTS)
def test_nothing_that_a_model_writes_raises(rule: AnswerRule, text: str) -> None:
    answer = extractor(rule)(text)
    if answer is not None:
        assert answer == answer.strip() != ""
        answer.encode()  # a lone surrogate would not be written


@pytest.mark.parametrize("piece", ["{", "}", r"\boxed{", '{"a":', '{"answer":[', "A ", "answer "])
@pytest.mark.parametrize("rule", RULES)
def test_a_megabyte_of_anything(rule: AnswerRule, piece: str) -> None:
    """With a time that grows as the square of its length it would end with the test's time."""
    assert extractor(rule)(piece * ((1 << 20) // len(piece))) in (None, "A", "answer")


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        (AnswerRule("regex", pattern=r"\d+"), "70"),
        (AnswerRule("choice", choices=("yes", "no")), "answer: no"),
        (AnswerRule("json", key="answer"), '{"answer": 1}'),
    ],
)
def test_only_the_end_of_a_text_is_searched(rule: AnswerRule, text: str) -> None:
    extract = extractor(rule)
    assert extract(text + " " * (CHARACTERS_READ - len(text))) is not None
    assert extract(text + " " * CHARACTERS_READ) is None


@pytest.mark.parametrize(
    ("rule", "field"),
    [
        (AnswerRule("letters"), "extract"),
        (AnswerRule("regex"), "pattern"),
        (AnswerRule("choice"), "choices"),
        (AnswerRule("json"), "key"),
        (AnswerRule("boxed", pattern="a"), "pattern"),
        (AnswerRule("text", choices=("A", "B")), "choices"),
        (AnswerRule("regex", pattern="a", key="a"), "key"),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(rule: AnswerRule, field: str) -> None:
    with pytest.raises(RefusalError) as refused:
        extractor(rule)
    assert refused.value.field == f"think.answer.{field}"
