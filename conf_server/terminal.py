"""Text on its way to a terminal, which may be a file's or a server's, and not our own."""

from __future__ import annotations

import sys
import unicodedata
from typing import Final

LONGEST: Final = 2000
"""Characters of a message; of a longer one the beginning and the end."""

_KEPT: Final = frozenset("\n\t")
_UNSAFE: Final = frozenset({"Cc", "Cs"})
"""Categories of characters that a terminal obeys (escape sequences), or cannot be sent."""
_DIRECTIONS: Final = frozenset(
    chr(code) for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))
)
"""Characters that show what follows in another order than it has."""


def readable(text: str) -> str:
    """The text with what a terminal would obey written as escapes (`\\x1b`)."""
    return "".join(map(_readable, text))


def _readable(character: str) -> str:
    if character in _KEPT or character.isprintable():
        return character
    if character in _DIRECTIONS or unicodedata.category(character) in _UNSAFE:
        return character.encode("unicode_escape").decode()
    return character


def shortened(text: str, longest: int = LONGEST) -> str:
    """The text, or beginning and end of one that is longer than `longest` characters."""
    if len(text) <= longest:
        return text
    left_out = f" ... {len(text) - longest} characters more ... "
    return text[: longest - longest // 4] + left_out + text[-(longest // 4) :]


def message(text: str) -> str:
    """A message for standard error: short, and nothing in it that a terminal would obey."""
    return readable(shortened(text))


def say(text: str) -> None:
    """Print a message to standard error."""
    print(message(text), file=sys.stderr)
