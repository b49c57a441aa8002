"""The texts of single tokens, without an engine."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Final

from conf_server.stats.split_characters import CONTEXT_TOKENS, is_split

_METASPACE: Final = "▁"


def added(known: str, whole: str) -> str:
    """What a text has beyond a shorter one: all from where the two differ.

    More tokens can change the end of what was decoded before: an incomplete character, or a blank.
    """
    if whole.startswith(known):
        return whole[len(known) :]
    pairs = enumerate(zip(known, whole, strict=False))
    return whole[next((place for place, (a, b) in pairs if a != b), len(whole)) :]


class TokenTexts:
    """Texts of a tokenizer's tokens, as vLLM shows them beside log-probabilities.

    A character that is split over several tokens is the text of the token that completes it, and
    the text of the others is empty. So the texts of a sequence's tokens join to its text.
    """

    def __init__(self, tokenizer: Any) -> None:
        """
        Args:
            tokenizer: of transformers' kind.
        """
        self._tokenizer = tokenizer
        self._known: dict[int, str] = {}

    def rows(self, rows: Sequence[Sequence[int]], context: Sequence[int] = ()) -> list[list[str]]:
        """The text of every id.

        Args:
            rows: for each position of a sequence the ids there: the sequence's own token first,
                then other candidates.
            context: the sequence's tokens before the first row, oldest first.

        Returns:
            The texts, in the shape of `rows`.
        """
        before = list(context)[-CONTEXT_TOKENS:]
        texts = []
        for row in rows:
            texts.append([self._after(before, token_id) for token_id in row])
            before = [*before, row[0]][-CONTEXT_TOKENS:]
        return texts

    def _after(self, before: list[int], token_id: int) -> str:
        text = self._alone(token_id)
        return self._completed(before, token_id) if is_split(text) else text

    def _alone(self, token_id: int) -> str:
        """The text of one token by itself. Candidates come up again and again, so it is kept."""
        if token_id not in self._known:
            self._known[token_id] = self._decoded_alone(token_id)
        return self._known[token_id]

    def _decoded_alone(self, token_id: int) -> str:
        text = self._decoded([token_id])
        if not self._drops_blanks:
            return text
        piece = self._tokenizer.convert_ids_to_tokens(token_id) or ""
        blanks = len(piece) - len(piece.lstrip(_METASPACE))
        return " " * (blanks - (len(text) - len(text.lstrip(" ")))) + text

    @cached_property
    def _drops_blanks(self) -> bool:
        """Whether decoding leaves out a blank that a text begins with: so SentencePiece does."""
        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        if backend is None:
            return hasattr(self._tokenizer, "sp_model")
        parts = json.loads(backend.to_str())
        return _METASPACE in json.dumps(
            [parts.get("decoder"), parts.get("pre_tokenizer")], ensure_ascii=False
        )

    def _completed(self, before: list[int], token_id: int) -> str:
        """The text of a token that ends within a character by itself."""
        for count in range(1, len(before) + 1):
            context = before[-count:]
            whole = self._decoded([*context, token_id])
            if is_split(whole):
                continue
            while context and is_split(self._alone(context[-1])):
                context.pop()  # its text is empty, and belongs to this token
            known = self._decoded(context) if context else ""
            return added(known, whole)
        return ""

    def _decoded(self, token_ids: list[int]) -> str:
        return str(self._tokenizer.decode(token_ids))
