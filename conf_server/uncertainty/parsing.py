"""What is read out of texts that the model wrote: a stated confidence, a final answer.

A reader that finds nothing returns None and never guesses.
"""

from __future__ import annotations

import re
import string
from typing import Final

from conf_server.uncertainty.prompts import EXPRESSIONS

# Only the end of a clause may follow: "1 in 4", "1e-5", "1:100" and "80% to 90%" are not it.
_PROBABILITY: Final = r"(\d+(?:\.\d+)?|\.\d+)\s*(%?)(?=[*_>\"'`)\]]*(?:[.,;!]?\s*$|[.,;!]\s|\s*\n))"
_LABELLED_PROBABILITY: Final = re.compile(
    rf"\b(?:probability|confidence)\b[\s:=*<\"'`]*{_PROBABILITY}", re.IGNORECASE
)
_BARE_PROBABILITY: Final = re.compile(rf"\s*{_PROBABILITY}\s*\.?\s*")
_EXPRESSION: Final = re.compile(
    r"(\bnot |n['’]t )?\b(?P<name>{})\b".format(
        "|".join(sorted(EXPRESSIONS, key=len, reverse=True))
    ),
    re.IGNORECASE,
)
_CONFIDENCE_OF: Final = {name.lower(): value for name, value in EXPRESSIONS.items()}

_ANSWER_LABEL: Final = re.compile(r"\banswer\b(?:\s+is\b)?\W*?(?::|\bis\b)[ \t*]*", re.IGNORECASE)
# No part of a name (GPT-4), a version (1.2.3) or a fraction (3/4); of 10-20 the 20 is one.
_SIGNED_NUMBER: Final = re.compile(
    r"(?<![\w.])(?<![A-Za-z]-)(?<!\d/)-?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?!\w|[./]\d)"
    r"|(?<![\w.])-?\.\d+(?!\w|[./]\d)"
)
# The number that a line begins with, and no part of an expression such as 10-20 or 7 + 3.
_LEADING_NUMBER: Final = re.compile(
    rf"[\s$€£(\"']*({_SIGNED_NUMBER.pattern})(?!\s*[-–+*/×÷^:]\s*[\d(])(?=[\s,;.!?%°)\"'。，；]|$)"
)
_BRACE: Final = re.compile(r"\\boxed\s*\{|[{}]")
_ARTICLE: Final = re.compile(r"^(?:the|an|a)\s+")
_AROUND_ANSWERS: Final = string.whitespace + "$€£%_\"'.,;:!?()“”‘’«»¿¡…。、，；：！？（）「」『』"
_SHORT_ANSWER_WORDS: Final = 10


def parse_probability(text: str) -> float | None:
    """The first number right after "Probability" or "Confidence", or alone; None if neither.

    With a percent sign it is divided by 100. A range, a fraction, a decimal comma, a number
    that more words belong to and one outside [0, 1] are not read. lm-polygraph reads only the
    form "Probability: 0.9".
    """
    match = _LABELLED_PROBABILITY.search(text) or _BARE_PROBABILITY.fullmatch(text)
    if match is None:
        return None
    value = float(match[1]) / (100 if match[2] else 1)
    return value if value <= 1 else None


def parse_expression(text: str) -> float | None:
    """The confidence of the first of `EXPRESSIONS` after the last "Confidence:"; else None.

    Without that word, in the whole text. Of expressions that begin alike the longest
    counts: lm-polygraph takes the first of its list, so that "Probably Not" is probable. One
    that is denied ("not likely") is none of them.
    """
    stated = re.split(r"confidence\s*:", text, flags=re.IGNORECASE)[-1]
    match = _EXPRESSION.search(stated)
    return _CONFIDENCE_OF[match["name"].lower()] if match and not match[1] else None


def extract_answer(text: str) -> str | None:
    r"""The final answer in a form that can be compared, or None.

    The first of these that there is: what the last ``\boxed{}`` holds; the line that
    follows the last "answer:" or "answer is", of which what stands behind an equals sign, and
    of that the number that it begins with; the last number; the whole text if it is of ten
    words at most. A number loses commas, idle zeros, currency and percent signs; other text
    its case, its article, its asterisks and the punctuation around it.
    """
    boxed = _last_boxed(text)
    if boxed is not None:
        return _normalized(boxed)
    labels = list(_ANSWER_LABEL.finditer(text))
    if labels:
        line = text[labels[-1].end() :].strip().split("\n", 1)[0].rpartition("=")[2]
        leading = _LEADING_NUMBER.match(re.sub(r"[*`]", "", line))
        return _canonical_number(leading[1]) if leading else _normalized(line)
    numbers = _SIGNED_NUMBER.findall(text)
    if numbers:
        return _canonical_number(numbers[-1])
    return _normalized(text) if len(text.split()) <= _SHORT_ANSWER_WORDS else None


def _last_boxed(text: str) -> str | None:
    """What stands between the braces of the last closed ``\\boxed{...}``."""
    found: tuple[int, int] | None = None
    opened: list[int | None] = []
    for match in _BRACE.finditer(text):
        if match[0] != "}":
            opened.append(match.end() if match[0] != "{" else None)
        elif opened and (start := opened.pop()) is not None:
            found = max(found or (start, 0), (start, match.start()))
    return text[slice(*found)] if found else None


def _normalized(text: str) -> str | None:
    plain = re.sub(r"[*`]", "", text).strip(_AROUND_ANSWERS).lower()
    if _SIGNED_NUMBER.fullmatch(plain):
        return _canonical_number(plain)
    return " ".join(_ARTICLE.sub("", plain).split()) or None


def _canonical_number(number: str) -> str:
    sign = "-" if number.startswith("-") else ""
    whole, _, fraction = number.removeprefix("-").replace(",", "").partition(".")
    digits = whole.lstrip("0") or "0"
    decimals = fraction.rstrip("0")
    plain = f"{digits}.{decimals}" if decimals else digits
    return plain if plain == "0" else sign + plain
