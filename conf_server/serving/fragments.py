"""What is made once of each token of a vocabulary, and kept for all requests of a process.

A row of an answer names twenty tokens or more, most of them again and again. Their part of the
JSON, which is all of it but the numbers, is looked up here.

A table grows with the tokens that answers name, and can have no more entries than the vocabulary:
the engine names no others. docs/api.md says how large that is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Generic, TypeVar

import msgspec

from conf_server.serving.token_decoding import Decode, alone, depends_on_context, shown_as_id

_T = TypeVar("_T")

Before = Callable[[int], Sequence[int]]
"""The tokens before the one that stands at an index, as many as one character can be split over."""


class TokenTable(dict[int, _T | None], Generic[_T]):
    """What is made of each token's text; None where the text depends on the tokens before."""

    def __init__(
        self,
        decode: Decode,
        make: Callable[[int, str], _T],
        text_of: Callable[[int], str] | None = None,
    ) -> None:
        """
        Args:
            make: takes a token's id and text.
            text_of: what `make` gets in place of the token's text.
        """
        self._decode = decode
        self._make = make
        self._text_of = text_of or partial(alone, decode)

    def __missing__(self, token_id: int) -> _T | None:
        text = self._text_of(token_id)
        made = self[token_id] = None if depends_on_context(text) else self._make(token_id, text)
        return made

    def of(self, token_ids: Sequence[int], before: Before) -> list[_T]:
        """What is made of each of these tokens; `before` is asked for split characters only."""
        found = list(map(self.__getitem__, token_ids))
        if None not in found:
            return found  # type: ignore[return-value]  # mypy does not narrow the list
        return [
            self._make(token_id, self._decode([[token_id]], before(index))[0][0])
            if made is None
            else made
            for index, (token_id, made) in enumerate(zip(token_ids, found, strict=True))
        ]


class Vocabulary:
    """The tables of one tokenizer, for answers that show texts or `token_id:N`.

    Attributes:
        own: OpenAI's entry of a sampled token up to its number: `{"token":…,"bytes":…,"logprob":`.
        candidate: the same of a candidate. It differs for `token_id:N`: there the sampled
            token's bytes are still those of its text.
        text: the text.
        key: the text as the name of a JSON member: `"…":`.
        scored: an entry of /v1/score up to its number, with the id.
    """

    def __init__(self, decode: Decode, as_token_ids: bool = False) -> None:
        shown = shown_as_id if as_token_ids else None
        self.candidate = TokenTable(decode, _openai_entry, shown)
        self.own = self.candidate
        if as_token_ids:
            self.own = TokenTable(decode, _openai_entry_by_id)
        self.text = TokenTable(decode, _text, shown)
        self.key = TokenTable(decode, _key, shown)
        self.scored = TokenTable(decode, _scored_entry)


def utf8(text: str) -> list[int]:
    """The bytes of a token's text, as OpenAI lists them."""
    return list(text.encode("utf-8", errors="replace"))


def _openai_entry(_token_id: int, text: str) -> bytes:
    return _entry({"token": text, "bytes": utf8(text)})


def _openai_entry_by_id(token_id: int, text: str) -> bytes:
    return _entry({"token": shown_as_id(token_id), "bytes": utf8(text)})


def _scored_entry(token_id: int, text: str) -> bytes:
    return _entry({"token": text, "token_id": token_id, "bytes": utf8(text)})


def _entry(members: dict[str, object]) -> bytes:
    return msgspec.json.encode(members)[:-1] + b',"logprob":'


def _text(_token_id: int, text: str) -> str:
    return text


def _key(_token_id: int, text: str) -> bytes:
    return msgspec.json.encode(text) + b":"
