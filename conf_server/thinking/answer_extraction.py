r"""Which part of a trace's text is its answer: `think.answer.extract`.

`boxed` is DeepConf's rule (github.com/facebookresearch/deepconf, commit 675529d,
deepconf/utils.py, `extract_answer`), its corners included: what follows the last "boxed" in the
text, a backslash before it or not. Where a brace follows, up to the brace that closes it, or to
the end of a text that was cut before that; where none follows, up to the next `$`.

No rule takes more than linear time, whatever a model has written: each says how.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from conf_server.refusal import RefusalError
from conf_server.thinking.choice_answers import choice_finder
from conf_server.thinking.json_answers import json_finder
from conf_server.thinking.regex_answers import regex_finder

Extract = Callable[[str], str | None]
Find = Callable[[str, int], str | None]
"""Gets a whole text, and the place where it begins to look."""

EXTRACTS: Final = ("boxed", "regex", "choice", "json", "text")
LONGEST_ANSWER: Final = 4096
"""Characters. What is longer is no answer: two of them that were cut could be equal by the cut."""
CHARACTERS_READ: Final = 1 << 16
"""`regex`, `choice` and `json` look at so many characters from the end of a text."""

_BRACES: Final = re.compile(r"[{}]")
_SURROGATES: Final = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class AnswerRule:
    r"""`think.answer` of a request.

    Attributes:
        extract: which part of a trace is its answer, one of `EXTRACTS`.
        equal: which answers are the same one, one of `answer_groups.EQUALS`.
        pattern: for `regex` alone: in RE2's syntax, `regex_answers` says what of it counts.
        choices: for `choice` alone: what may be answered.
        key: for `json` alone: a name, or a JSON Pointer where it begins with a slash.
    """

    extract: str = "boxed"
    equal: str = "exact"
    pattern: str | None = None
    choices: tuple[str, ...] | None = None
    key: str | None = None


def extractor(rule: AnswerRule) -> Extract:
    """What finds the answer in the text of a trace, and returns None where there is none.

    It never raises. An answer has no white space around it, is not empty, has at most
    `LONGEST_ANSWER` characters and can be written as UTF-8. It may take a second or two for
    a hostile `regex`, in which the interpreter is free: call it in a thread.

    Raises:
        RefusalError: the rule makes no sense, or needs a library that is not installed.
    """
    find = _finder(rule)

    def extract(text: str) -> str | None:
        found = find(_encodable(text), max(0, len(text) - CHARACTERS_READ))
        answer = _encodable(found).strip() if found else ""
        return answer if 0 < len(answer) <= LONGEST_ANSWER else None

    return extract


def _finder(rule: AnswerRule) -> Find:
    if rule.extract not in EXTRACTS:
        raise RefusalError("think.answer.extract", f"it is one of {', '.join(EXTRACTS)}")
    for field, value, of in (
        ("pattern", rule.pattern, "regex"),
        ("choices", rule.choices, "choice"),
        ("key", rule.key, "json"),
    ):
        if value is None and rule.extract == of:
            raise RefusalError(f"think.answer.{field}", f"extract: {of} needs it")
        if value is not None and rule.extract != of:
            raise RefusalError(f"think.answer.{field}", f"it goes with extract: {of} alone")
    if rule.pattern is not None:
        return regex_finder(rule.pattern)
    if rule.choices is not None:
        return choice_finder(rule.choices)
    if rule.key is not None:
        return json_finder(rule.key)
    return _boxed if rule.extract == "boxed" else _whole


def _whole(text: str, _start: int) -> str:
    return text


def _boxed(text: str, _start: int) -> str | None:
    """What follows the last "boxed" of the whole text, as the head of this module says."""
    _, word, rest = text.rpartition("boxed")
    if not word:
        return None
    if not rest.startswith("{"):
        return rest.partition("$")[0]
    depth = 0
    for brace in _BRACES.finditer(rest):
        depth += 1 if brace[0] == "{" else -1
        if depth == 0:
            return rest[1 : brace.start()]
    return rest[1:]


def _encodable(text: str) -> str:
    """The text without halves of surrogate pairs, which no JSON body could carry as UTF-8."""
    return text if text.isascii() else _SURROGATES.sub("\N{REPLACEMENT CHARACTER}", text)
