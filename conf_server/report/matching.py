"""Is an answer the reference? Normalised exact match, or the reference as words in the answer."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import Final, Literal

Match = Literal["exact", "contains"]

MINUS: Final = "\N{MINUS SIGN}"
JOINED: Final = frozenset(".'\N{RIGHT SINGLE QUOTATION MARK}")
"""Punctuation within words: U.S., don't."""

_THOUSANDS: Final = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_ARTICLE: Final = re.compile(r"^(?:an?|the) (?=.)")


def normalized(text: str) -> str:
    """What two answers that say the same have in common.

    NFKC and casefold; 1,000 as 1000; punctuation goes, but for the point and the minus
    before a digit; white space is one blank; a leading a, an or the goes if more follows.
    Close to SQuAD's normalisation (arXiv 1606.05250), which would make -3.5 equal to 35
    and nothing of the choice "A".
    """
    text = unicodedata.normalize("NFKC", text).casefold().replace(MINUS, "-")
    text = _THOUSANDS.sub("", text)
    kept = [_kept(mark, after) for mark, after in zip(text, f"{text} "[1:], strict=True)]
    return _ARTICLE.sub("", " ".join("".join(kept).split()))


def _kept(mark: str, after: str) -> str:
    if not unicodedata.category(mark).startswith("P"):
        return mark
    if mark in ".-" and after.isdigit():
        return mark
    return "" if mark in JOINED else " "


def matches(answer: str, references: Sequence[str], match: Match) -> bool:
    """Whether the answer equals one of the references, or contains its words in a row.

    Raises:
        ValueError: a reference of which nothing is left to compare.
    """
    said = normalized(answer)
    for reference in references:
        wanted = normalized(reference)
        if not wanted:
            raise ValueError(f"nothing to compare in the reference {reference!r}")
        if said == wanted or (match == "contains" and f" {wanted} " in f" {said} "):
            return True
    return False
