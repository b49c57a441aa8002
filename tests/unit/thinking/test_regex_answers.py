"""`extract: regex`: the last match, in linear time."""

from __future__ import annotations

import re
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conf_server.refusal import RefusalError
from conf_server.thinking.regex_answers import LONGEST_PATTERN, regex_finder

PATTERNS = (
    *(r"\d+", "a|ab", "(?:a?|b)", "a.*?b", "(?i)B", r"\bab\b", "^a", "b$", "a*", "(?:ab)+"),
    *("a|^b", r"\Bb", "(?:a|b1)*", "(?:)"),
)


@pytest.mark.parametrize(
    ("pattern", "text", "answer"),
    [
        (r"\d+", "7, then 70.", "70"),
        (r"(?i)answer: (\w+)", "Answer: yes. ANSWER: no.", "no"),
        (r"(?P<unit>\w+) = (?P<answer>\d+)", "m = 5 kg = 6", "6"),
        (r"A: (\d)|B: (\d)", "A: 5 B: 6", "6"),
        (r"x(\d)?", "x1 x", None),
        (r"x(\d*)", "x1 x", ""),
        (r"\d*", "70 is it", "70"),
        ("é+", "né, éé, n", "éé"),
        ("none", "70", None),
    ],
)
def test_the_last_match_counts(pattern: str, text: str, answer: str | None) -> None:
    assert regex_finder(pattern)(text, 0) == answer


@pytest.mark.parametrize("pattern", PATTERNS)
@given(text=st.text("ab1B ", max_size=12))
def test_it_is_the_last_of_all_matches(pattern: str, text: str) -> None:
    every = [match[0] for match in re.finditer(pattern, text) if match[0]]
    assert regex_finder(pattern)(text, 0) == (every[-1] if every else None)


def test_what_stands_before_the_beginning_is_seen() -> None:
    assert regex_finder("^a")("aa", 1) is None
    assert regex_finder(r"\ba")("aa", 1) is None
    assert regex_finder("a")("ab", 1) is None


@pytest.mark.parametrize("pattern", ["(a+)+$", "a(.*b)?", "(a|aa)+b", "(?:a?){200}a{200}b"])
def test_patterns_that_take_other_engines_years(pattern: str) -> None:
    answer = regex_finder(pattern)("a" * (1 << 16) + "c", 0)
    assert answer == ("a" if pattern.startswith("a(") else None) or answer is None


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("(", r"missing \)"),
        ("(?=a)", "invalid perl operator"),
        (r"(a)\1", "invalid escape"),
        ("a{1001}", "invalid repetition size"),
        (r"\pL{500}", "too large"),
        (r"(.{0,300})x", "too large"),
        ("(a)" * 10, "more than 9 groups"),
        (r"\Qa", r"\\Q"),
        ("a" * (LONGEST_PATTERN + 1), "more than 1000 characters"),
        ("\ud800", "surrogate"),
    ],
)
def test_a_pattern_that_is_none_is_refused_in_words(
    pattern: str, reason: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(RefusalError, match=reason) as refused:
        regex_finder(pattern)
    assert refused.value.field == "think.answer.pattern"
    assert capfd.readouterr() == ("", "")  # RE2 itself would log it


def test_without_the_engine_the_rule_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "re2", None)
    with pytest.raises(RefusalError, match=r"pip install 'conf-server\[server\]'"):
        regex_finder("a")
