"""What teacher forcing asks of a model, whatever runs it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from conf_server.backends.base import Caller, Chat
from conf_server.stats.forced import (
    ForcedLabels,
    ForcedRows,
    ForcedStates,
    ForcedText,
    WantedRows,
    WantedStates,
)


class TokenModel(Protocol):
    """A model that takes token ids.

    Attributes:
        tokenizer: of transformers' kind. The thread of a `TextEncoder` uses it and nobody else,
            so that encoding a long text neither blocks the event loop nor meets another thread
            in the tokenizer.
        max_len: most tokens of a forced text.
        max_chars: most characters that so many tokens can have.
        vocab_size: V.
        block_size: tokens in a block of the prefix cache; a shorter context is never cached.
    """

    tokenizer: Any
    max_len: int
    max_chars: int
    vocab_size: int
    block_size: int

    async def render(self, chat: Chat, path: str) -> list[int]:
        """Token ids of a chat; errors name fields that begin with `path`."""
        ...

    async def end_token(self, context: Chat | None, path: str) -> int:
        """The token with which the model ends an answer, in a chat or without one."""
        ...

    async def force(self, text: ForcedText, wanted: WantedRows, caller: Caller) -> ForcedRows:
        """Teacher forcing of one text."""
        ...

    async def force_states(
        self, text: ForcedText, wanted: WantedStates, caller: Caller
    ) -> ForcedStates:
        """Hidden states of one text."""
        ...

    async def force_labels(
        self, context: list[int], labels: Sequence[int], caller: Caller
    ) -> ForcedLabels:
        """Log-probabilities of single tokens right after a context."""
        ...
