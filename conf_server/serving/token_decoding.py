"""What the text of a single token is, whoever decodes it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from conf_server.stats.split_characters import is_split


class Decode(Protocol):
    """Gives the texts of tokens, such as `Backend.decode`.

    A character that is split over several tokens is the text of the token that completes it, and
    the text of the others is empty. It is called with few tokens and often, and the same one is
    recognized by `==` and `hash()`: what was made of its tokens is kept.
    """

    def __call__(
        self, rows: Sequence[Sequence[int]], context: Sequence[int] = ()
    ) -> list[list[str]]:
        """
        Args:
            rows: for each position of a sequence the ids there: the sequence's own token first,
                then other candidates.
            context: the sequence's tokens before the first row, oldest first.

        Returns:
            The texts, in the shape of `rows`.
        """
        ...


def alone(decode: Decode, token_id: int) -> str:
    """The text of a token with nothing before it."""
    return decode([[token_id]])[0][0]


def depends_on_context(text: str) -> bool:
    """Whether a token that has this text `alone` may have another one after other tokens."""
    return not text or is_split(text)


def shown_as_id(token_id: int) -> str:
    """A token in answers with `return_tokens_as_token_ids`."""
    return f"token_id:{token_id}"
