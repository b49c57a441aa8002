"""The right word that looks most like a wrong one."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Final

CUTOFF: Final = 0.7
"""How alike two words must be, from 0 to 1: more than difflib's own 0.6, because flags begin with
the same two dashes."""


def nearest(wrong: str, right: Iterable[str]) -> str | None:
    """The likest of the right words; None where none is like it at all."""
    found = get_close_matches(wrong, list(right), 1, CUTOFF)
    return found[0] if found else None


def did_you_mean(wrong: str, right: Iterable[str]) -> str:
    """What to put behind an error message: `; did you mean X?`, or nothing."""
    near = nearest(wrong, right)
    return f"; did you mean {near}?" if near else ""
