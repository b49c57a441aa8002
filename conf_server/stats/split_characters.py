"""Characters of UTF-8 whose bytes are split over several tokens."""

from typing import Final

CONTEXT_TOKENS: Final = 4
"""How many tokens one character can be split over."""

SPLIT: Final = "\N{REPLACEMENT CHARACTER}"
"""The end of a token's text where the token ends within a character."""


def is_split(text: str) -> bool:
    """Whether a token ends within a character, so that the tokens before decide its text."""
    return text.endswith(SPLIT)
