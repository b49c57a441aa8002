"""Answers in groups, as they come."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conf_server.refusal import RefusalError
from conf_server.thinking.answer_groups import AnswerGroups, ComparisonGivenUpError


class LastDigit:
    """Compares answers by their last digit; of an answer "?" it cannot tell."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []

    async def equal(self, one: str, other: str) -> bool:
        self.asked.append((one, other))
        await asyncio.sleep(0)
        if "?" in (one, other):
            raise ComparisonGivenUpError
        return one[-1] == other[-1]


async def grouped(groups: AnswerGroups, answers: Sequence[str]) -> list[int]:
    return [await groups.add(answer) for answer in answers]


async def test_exact_answers_are_compared_as_they_are() -> None:
    groups = AnswerGroups("exact")
    assert await grouped(groups, ["70", "70.0", "70", " 70"]) == [0, 1, 0, 2]
    assert [groups.shown(group) for group in range(3)] == ["70", "70.0", " 70"]
    assert groups.warnings == ()


@pytest.mark.parametrize(
    "equal",
    [
        ["1234", "1,234", "1234.0", "1.234e3", "$1,234", r"\$1{,}234", "x = 1234", "1234 cm"],
        ["0.5", "1/2", r"\frac{1}{2}", r"\dfrac12", "0.50", "5e-1"],
        ["-3", "−3", "-3.000"],
        ["50%", r"50\%", "50"],
        ["9" * 4000, "9" * 4000 + ".0"],
        ["Paris"],
        ["paris"],
        ["1e999999999"],
        ["1e999999998"],
        ["1/3"],
        ["0.3333333333333333"],
        ["5 or 6"],
    ],
)
async def test_numbers_are_equal_by_value(equal: list[str]) -> None:
    groups = AnswerGroups("number")
    others = ["7", "text", "5/6"]
    assert await grouped(groups, [*others, *equal]) == [0, 1, 2, *[3] * len(equal)]
    assert groups.shown(3) == equal[0]


@given(st.lists(st.text(st.sampled_from("0123456789.,-+/eE^{}\\frac$% xπ")), max_size=6))
def test_any_text_has_a_group(answers: list[str]) -> None:
    async def run() -> None:
        groups = AnswerGroups("number")
        first = await grouped(groups, answers)
        assert await grouped(groups, answers) == first

    asyncio.run(run())


async def test_latex_asks_for_the_first_of_each_group() -> None:
    comparer = LastDigit()
    groups = AnswerGroups("latex", comparer)
    assert await grouped(groups, ["1", "2", "11", "12", "11", "3"]) == [0, 1, 0, 1, 0, 2]
    pairs = [("1", "2"), ("1", "11"), ("1", "12"), ("2", "12"), ("1", "3"), ("2", "3")]
    assert comparer.asked == pairs
    assert groups.warnings == ()


async def test_equal_answers_that_come_together_make_one_group() -> None:
    groups = AnswerGroups("latex", LastDigit())
    assert await asyncio.gather(*map(groups.add, ["1", "11", "21", "1"])) == [0, 0, 0, 0]


async def test_a_comparison_that_is_given_up_is_told() -> None:
    groups = AnswerGroups("latex", LastDigit())
    assert await grouped(groups, ["?", "1", "11"]) == [0, 1, 1]
    assert groups.given_up == 2
    assert groups.warnings == ("latex_timeout",)


async def test_when_patience_has_ended_nothing_is_compared() -> None:
    comparer = LastDigit()
    groups = AnswerGroups("latex", comparer, patience_s=0)
    assert await grouped(groups, ["1", "11", "1", "21"]) == [0, 1, 0, 2]
    assert comparer.asked == []
    assert groups.given_up == 3
    assert groups.warnings == ("latex_timeout",)


def test_what_cannot_be_compared_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RefusalError, match="exact, number, latex"):
        AnswerGroups("same")
    with pytest.raises(ValueError, match="comparer"):
        AnswerGroups("latex")
    monkeypatch.setitem(sys.modules, "math_verify", None)
    with pytest.raises(RefusalError, match=r"pip install 'conf-server\[latex\]'") as refused:
        AnswerGroups("latex", LastDigit())
    assert refused.value.field == "think.answer.equal"
