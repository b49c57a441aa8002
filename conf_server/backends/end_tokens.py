"""The token with which a model ends an answer, in a chat or without one."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from conf_server.backends.base import Chat
from conf_server.refusal import RefusalError

_PROBE: Final = (
    {"role": "user", "content": "One."},
    {"role": "assistant", "content": "Two."},
)
"""A conversation whose last turn is finished: what stands behind it ends an answer."""


def end_tokens(tokenizer: Any, named: int | Sequence[int] | None) -> list[int]:
    """Tokens at which an answer ends: the tokenizer's own first.

    Args:
        named: `eos_token_id` of the model's generation config.
    """
    found = [getattr(tokenizer, "eos_token_id", None)]
    found += named if isinstance(named, list | tuple) else [named]
    return list(dict.fromkeys(token for token in found if token is not None))


class EndTokens:
    """Which of a model's end tokens belongs behind an answer."""

    def __init__(
        self, known: Sequence[int], render: Callable[[Chat, str], Awaitable[list[int]]]
    ) -> None:
        """
        Args:
            known: tokens at which an answer ends: the tokenizer's own first.
            render: as `TokenModel.render`.
        """
        self._known = known
        self._render = render
        self._found: dict[str, int] = {}

    async def after(self, context: Chat | None, path: str) -> int:
        """The first end token that a chat template puts behind an assistant's turn.

        Without a chat, or with a template that puts none there, it is the tokenizer's own.

        Raises:
            RefusalError: the model has no end token.
        """
        if not self._known:
            raise RefusalError(f"{path}finished", "the model's tokenizer names no end token.")
        if context is None:
            return self._known[0]
        key = json.dumps([context.template, context.template_kwargs], default=str)
        if key not in self._found:
            self._found[key] = await self._end_of_turn(context, path)
        return self._found[key]

    async def _end_of_turn(self, context: Chat, path: str) -> int:
        ids = []
        for messages in (_PROBE[:1], _PROBE):
            probe = Chat(messages, context.template, context.template_kwargs, False)
            ids.append(await self._render(probe, path))
        # Both end alike where a template closes turns, so count from the user's turn on.
        behind = ids[1][len(ids[0]) :]
        return next((token for token in behind if token in self._known), self._known[0])
