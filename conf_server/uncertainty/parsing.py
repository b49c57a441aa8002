"""What is read out of texts that the model wrote: a stated confidence, a final answer.

A reader that finds nothing returns None and never guesses.
"""

from __future__ import annotations

import re
import string
from typing import Final

from conf_server.uncertainty.numerals import (
    as_quantity,
    quantities,
    quantity_at_start,
    same_characters,
)
from conf_server.uncertainty.prompts import EXPRESSIONS

# Only the end of a clause may follow: "1 in 4", "1e-5", "1:100" and "80% to 90%" are not it.
_PROBABILITY: Final = r"(\d+(?:\.\d+)?|\.\d+)\s*(%?)(?=[*_>\"'`)\]]*(?:[.,;!]?\s*$|[.,;!]\s|\s*\n))"
_LABELLED_PROBABILITY: Final = re.compile(
    rf"\b(?:probability|confidence)\b[\s:=*<\"'`]*{_PROBABILITY}", re.IGNORECASE
)
_BARE_PROBABILITY: Final = re.compile(rf"\s*{_PROBABILITY}\s*\.?\s*")

_CONFIDENCE_LABEL: Final = re.compile(r"\bconfidence(?: level)?[\s*_]*[:=]", re.IGNORECASE)
_AROUND_WORDS: Final = string.whitespace + string.punctuation
_CONFIDENCE_OF: Final = {name.lower(): value for name, value in EXPRESSIONS.items()}

_ANSWER_LABEL: Final = re.compile(
    r"\banswer\b(?:\s+is\b)?\W*?(?::|\bis\b)(?:\*{1,2}(?=\s|$))?[ \t]*", re.IGNORECASE
)
_BRACE: Final = re.compile(r"\\boxed\s*\{|[{}]")
# "**Paris**, of course" begins with its answer; "**2**, 3" does not.
_EMPHASIS: Final = re.compile(
    r"\s*(\*\*|__|\*|`)(?=\S)(?P<inside>[^*`\n]+?)(?<=\S)\1(?=\s*(?:[.,;!?](?!\s*\d)|$))"
)
_END_OF_EMPHASIS: Final = re.compile(r"\*\*(?=[\s.,;:!?]|$)")
_ARTICLE: Final = re.compile(r"^(?:the|an|a)\s+")
_AROUND_ANSWERS: Final = string.whitespace + "$€£%_\"'.,;:!?()“”‘’«»¿¡…。、，；：！？（）「」『』"
_SHORT_ANSWER_WORDS: Final = 10

_END_OF_CLAUSE: Final = re.compile(r"[,;.!?:…。、]|\b(?:because|since|as|which|where|when|so)\b")
# After a number: more numbers, or words and signs that make it a part of something else.
_GOES_ON: Final = re.compile(
    r"\d|[+*×÷^=<>±√π\\]|(?<!\w)[-/](?!\w)|\b(?:or|and|to|out|plus|minus|half|than)\b"
)
_BEFORE_NUMBERS: Final = re.compile(
    r"^[\s(\[\"']*(?:(?:the|about|around|approximately|roughly|exactly)\s+)?", re.IGNORECASE
)
_LIST_GOES_ON: Final = re.compile(r"\s*[,;]\s*(?:and |or )?[-+$€£¥₹]*\d")


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
    """The confidence of the one of `EXPRESSIONS` that the model states; None if there is none.

    What is stated is the line after the last "Confidence:", or a text that has no such word. An
    expression counts only where it is all of that, markup and punctuation aside, in any case of
    letters: "Not very likely" contains one and states another. lm-polygraph takes the first of
    its list that occurs anywhere, so that there "Probably Not" is probable.
    """
    *before, stated = _CONFIDENCE_LABEL.split(text)
    if before:
        stated = stated.lstrip(_AROUND_WORDS).split("\n", 1)[0]
    words = stated.strip(_AROUND_WORDS).split()
    return _CONFIDENCE_OF.get(" ".join(words).lower())


def extract_answer(text: str) -> str | None:
    r"""The final answer in a form that can be compared, or None.

    The first of these that there is: what the last ``\boxed{}`` holds; the line that follows the
    last "answer:" or "answer is"; of ten words at most, the emphasised one that they begin with;
    the last number; the whole text if it is of ten words at most.

    Of what is stated in a box or a line, what stands behind an equals sign counts, and of that
    the number that it begins with, without its unit. Where more belongs to the number ("5 or 6",
    "2 and a half", "1, 2, 3"), the answer is the whole. `numerals` says how numbers are read.
    Other text loses its case, its article, its asterisks and the punctuation around it.
    """
    text = same_characters(text)
    boxed = _last_boxed(text)
    if boxed is not None:
        return _stated(_without_latex(boxed))
    text = _without_latex(text)
    labels = list(_ANSWER_LABEL.finditer(text))
    if labels:
        return _stated(text[labels[-1].end() :].strip().split("\n", 1)[0])
    short = len(text.split()) <= _SHORT_ANSWER_WORDS
    if short and _EMPHASIS.match(text):
        return _stated(text)
    found = list(quantities(re.sub(r"[*`]", "", text)))
    if found and not (short and _is_list(text)):
        return found[-1][0]
    return _normalized(text) if short else None


def extract_number(answer: str) -> str | None:
    """The number that an answer is, in the form of `numerals`; None where it is anything else.

    Signs of currency and percent and a unit behind do not count; of "x = 5" what stands behind
    the equals sign does. Texts are equal as numbers exactly where their forms are equal.
    """
    text = re.sub(r"[*`]", "", _without_latex(same_characters(answer)))
    text = _behind_equals(text)
    return as_quantity(text.strip(_AROUND_ANSWERS)) or _number_at_start(text.lstrip("$ "))


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


_LATEX: Final = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mathit|mbox)\s*\{([^{}]*)\}", r"\1"),
        (r"\{,\}", ","),
        (r"\\!|\\(?:left|right|displaystyle)(?![A-Za-z])|\\[()\[\]]", ""),
        (r"\\[,;: ]|\\q?quad(?![A-Za-z])|~", " "),
        (r"\\([%$#&_])", r"\1"),
        (r"\\[dt]frac", r"\\frac"),
        (r"(\d) ?\\frac\s*\{(\d+)\}\s*\{(\d+)\}", r"\1 \2/\3"),
        (r"\\frac\s*\{(\d+)\}\s*\{(\d+)\}", r"\1/\2"),
        (r"\\frac\s*(\d)\s*(\d)", r"\1/\2"),
        (r"\\(?:times|cdot)(?![A-Za-z])", "×"),
        (r"\\approx(?![A-Za-z])", "="),
        (r"\^\{([-+]?\d+)\}", r"^\1"),
        (r"\^\{?\s*\\circ\s*\}?|\\degree(?![A-Za-z])", "°"),
    )
)


def _without_latex(text: str) -> str:
    """The text without commands that only say how it looks; fractions of numbers with a slash."""
    if "\\" not in text and "{" not in text:
        return text
    for pattern, replacement in _LATEX:
        text = pattern.sub(replacement, text)
    return text


def _stated(text: str) -> str | None:
    """The answer that a box or a line states."""
    if emphasis := _EMPHASIS.match(text):
        text = emphasis["inside"]
    elif len(marks := _END_OF_EMPHASIS.split(text)) == 2 and "**" not in marks[0]:
        text = marks[0]  # The label was emphasised with it.
    text = _behind_equals(re.sub(r"[*`]", "", text))
    return _number_at_start(text) or _normalized(text)


def _behind_equals(text: str) -> str:
    """What stands behind the last equals sign, unless there are several statements."""
    left, sign, right = text.rpartition("=")
    several = re.search(r"[,;<>!≤≥]|\b(?:and|or)\b", left)
    return right if sign and right.strip() and not several else text


def _number_at_start(text: str) -> str | None:
    """The number that a statement begins with, where all that follows it is a unit."""
    text = _BEFORE_NUMBERS.sub("", text, count=1)
    found = quantity_at_start(text)
    if found is None:
        return None
    number, end = found
    rest = text[end:].lstrip("$°\"')]")
    if _LIST_GOES_ON.match(rest):
        return None
    clause = re.sub(r"\^-?\d", "", _END_OF_CLAUSE.split(rest, maxsplit=1)[0])
    if clause.strip() and not clause[0].isspace():
        return None
    return None if _GOES_ON.search(clause) else number


def _is_list(text: str) -> bool:
    """Whether a text is several numbers and nothing else."""
    found = list(quantities(text))
    words = re.sub(r"[\W_]|\band\b|\bor\b", "", _between(text, found))
    return len(found) > 1 and not words and bool(re.search(r"[,;]|\band\b|\bor\b", text))


def _between(text: str, found: list[tuple[str, int, int]]) -> str:
    """What a text has beside its quantities."""
    ends = [0, *(end for _, _, end in found)]
    starts = [*(start for _, start, _ in found), len(text)]
    return " ".join(text[end:start] for end, start in zip(ends, starts, strict=True))


def _normalized(text: str) -> str | None:
    plain = re.sub(r"[*`]", "", text).strip(_AROUND_ANSWERS)
    number = as_quantity(plain)
    if number is not None:
        return number
    plain = re.sub(
        r"\s*([<>=]+)\s*", r"\1", re.sub(r"\s*,\s*", ", ", _ARTICLE.sub("", plain.lower()))
    )
    return " ".join(plain.split()) or None
