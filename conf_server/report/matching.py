"""Whether an answer agrees with a reference: normalised exact match, or words in the answer."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import Final, Literal

Match = Literal["exact", "contains"]

PLAIN: Final = str.maketrans({"\N{MINUS SIGN}": "-", "\N{FRACTION SLASH}": "/"})
JOINED: Final = frozenset(".'\N{RIGHT SINGLE QUOTATION MARK}")
"""Punctuation within words: U.S., don't."""

_THOUSANDS: Final = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_NEGATIVE_AMOUNT: Final = re.compile(r"(?<![^\W_])-([$£¥€])(?=\.?\d)")
_SIGN: Final = re.compile(r"(?:(?<![^\W_])(?<![)\]])|(?<=\de))-(?=\.?\d)")
"""A minus with nothing to take from (12-7, f(3)-7) or to join (COVID-19); an exponent's."""
_ARTICLE: Final = re.compile(r"^(?:an?|the) (?=.)")


def normalized(text: str) -> str:
    """The form of a text that is equal for two answers that say the same.

    NFKC and casefold; 1,000 as 1000; punctuation goes, but for a number's point and sign;
    a symbol (Unicode's S: + = $ ° ` and such) is a word of its own; white space is one
    blank; a leading a, an or the goes if more follows. Close to SQuAD's normalisation
    (arXiv 1606.05250), which would make -3.5 equal to 35 and nothing of the choice "A".
    """
    text = unicodedata.normalize("NFKC", text).casefold().translate(PLAIN)
    text = _NEGATIVE_AMOUNT.sub(r"\1-", _THOUSANDS.sub("", text))
    signs = {found.start() for found in _SIGN.finditer(text)}
    kept = [
        mark if place in signs else _kept(mark, after)
        for place, (mark, after) in enumerate(zip(text, f"{text} "[1:], strict=True))
    ]
    return _ARTICLE.sub("", " ".join("".join(kept).split()))


def _kept(mark: str, after: str) -> str:
    kind = unicodedata.category(mark)[0]
    if kind == "S":
        return f" {mark} "
    if kind != "P" or (mark == "." and after.isdigit()):
        return mark
    return "" if mark in JOINED else " "


def matches(answer: str, references: Sequence[str], match: Match) -> bool:
    """Whether the answer equals one of the references, or contains its words in a row.

    Raises:
        ValueError: nothing is left of a reference that could be compared.
    """
    said = normalized(answer)
    for reference in references:
        wanted = normalized(reference)
        if not wanted:
            raise ValueError(f"nothing to compare in the reference {reference!r}")
        if said == wanted or (match == "contains" and f" {wanted} " in f" {said} "):
            return True
    return False
