"""Which comparison fits answers and references: `--match auto`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median
from typing import Final, Literal

from conf_server.report.answers import Answer
from conf_server.report.matching import Match, normalized

Wanted = Literal["auto", "exact", "contains"]

LONGER: Final = 2
"""How many times as many words as its reference has the middle answer of a chat, at least."""


@dataclass(frozen=True)
class MatchChoice:
    """When an answer agrees with a reference, and why that was chosen.

    Attributes:
        match: the comparison.
        why: in words; empty where the user chose it, or nothing is compared with a reference.
    """

    match: Match
    why: str = ""


def choose_match(wanted: Wanted, answers: Iterable[Answer]) -> MatchChoice:
    """The comparison that is wanted, or for `auto` the one that fits these answers.

    `contains` where the middle answer has at least twice as many words as the longest of its
    references: a sentence of a chat against a name. Not so where most references are a single
    letter: an English sentence says "a" whichever choice it takes.
    """
    if wanted != "auto":
        return MatchChoice(wanted)
    said, asked, letters = [], [], 0
    for answer in answers:
        if references := answer.compared:
            said.append(len(normalized(answer.text or "").split()))
            asked.append(max(len(normalized(one).split()) for one in references))
            letters += all(len(one.strip()) == 1 and one.strip().isalpha() for one in references)
    if not said:
        return MatchChoice("exact")
    ratio = median(one / other for one, other in zip(said, asked, strict=True))
    lengths = f"answers have {median(said):g} words in the middle, references {median(asked):g}"
    if 2 * letters > len(said):
        return MatchChoice("exact", "most references are a single letter")
    if ratio >= LONGER:
        return MatchChoice("contains", lengths)
    return MatchChoice("exact", lengths)
