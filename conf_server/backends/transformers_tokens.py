"""A transformers model as a `TokenModel`: rendering, teacher forcing and labels."""

from __future__ import annotations

import copy
import sys
from collections.abc import Sequence
from typing import cast

from conf_server.backends.base import Caller, Chat
from conf_server.backends.end_tokens import EndTokens
from conf_server.backends.template_rendering import rendered_chat
from conf_server.backends.transformers_batches import ForcedBatches
from conf_server.backends.transformers_forward import ForcedWork
from conf_server.backends.transformers_model import LoadedModel
from conf_server.stats.forced import (
    ForcedLabels,
    ForcedRows,
    ForcedStates,
    ForcedText,
    WantedRows,
    WantedStates,
)


class TransformersTokens:
    """What `TextForcing` asks of a model that transformers runs.

    Attributes:
        tokenizer: a copy, for the thread of a `TextEncoder`.
    """

    block_size = sys.maxsize
    """There is no prefix cache, so that no context is worth waiting for."""

    def __init__(self, loaded: LoadedModel, vocab_size: int, batches: ForcedBatches) -> None:
        self.tokenizer = copy.deepcopy(loaded.tokenizer)
        self.max_len = loaded.max_len
        self.max_chars = self.max_len * max(map(len, loaded.tokenizer.get_vocab()), default=0)
        self.vocab_size = vocab_size
        self._batches = batches
        self._rendering = loaded.tokenizer  # the event loop's
        self._ends = EndTokens(loaded.end_tokens, self.render)

    async def render(self, chat: Chat, path: str) -> list[int]:
        return rendered_chat(self._rendering, chat, path)

    async def end_token(self, context: Chat | None, path: str) -> int:
        return await self._ends.after(context, path)

    async def force(self, text: ForcedText, wanted: WantedRows, caller: Caller) -> ForcedRows:
        return cast(ForcedRows, await self._read(text, wanted, caller))

    async def force_states(
        self, text: ForcedText, wanted: WantedStates, caller: Caller
    ) -> ForcedStates:
        return cast(ForcedStates, await self._read(text, wanted, caller))

    async def force_labels(
        self, context: list[int], labels: Sequence[int], caller: Caller
    ) -> ForcedLabels:
        """The row of the first label names them all."""
        text = ForcedText([*context, labels[0]], len(context))
        wanted = WantedRows(1, 0, statistics=True, token_ids=tuple(labels))
        forced = await self.force(text, wanted, caller)
        logprobs = forced.rows.candidate_logprobs[0]
        return ForcedLabels(logprobs, len(text.token_ids), forced.num_cached)

    async def _read(
        self, text: ForcedText, wanted: WantedRows | WantedStates, caller: Caller
    ) -> ForcedRows | ForcedStates:
        return await self._batches.result(
            ForcedWork(text, wanted), caller.origin or caller.request_id
        )
