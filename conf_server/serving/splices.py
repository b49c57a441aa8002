"""JSON text that is put into an answer once vLLM's code has made the rest of it.

vLLM's handlers put answers together from pydantic models, and its routes turn them into JSON. A
placeholder stands in the model where our text belongs, and our routes fill it in when the answer,
or a chunk of a stream, is text:

    request.take_splices(splices)               # our route
    splices.hold('"content":[],"*":0', pieces)  # our handler, in the midst of vLLM's
    await splices.fill_response(response)       # our route, with the response of vLLM's route

The text of a large answer takes seconds to write. It comes in pieces, and other requests have their
turn in between.

A handler that is called in another way, as /invocations does it, finds no `Splices` in its request
and makes pydantic objects as vLLM does.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterable, AsyncIterator, Iterable
from contextlib import aclosing
from typing import Any, Final

from fastapi.responses import Response, StreamingResponse
from pydantic import BaseModel, PrivateAttr

from conf_server.serving.logprobs_encoder import LogprobsEncoder

# Neither a client nor a model can guess it, so no text in an answer is taken for a placeholder.
_SECRET: Final = secrets.token_hex(16)
_SECRET_BYTES: Final = _SECRET.encode()

_TURN: Final = 1 << 18
"""Bytes that are written before other requests have their turn: some milliseconds' work."""


class Splices:
    """The placeholders of one answer.

    Attributes:
        encoder: writes the text that takes their place.
    """

    def __init__(self, encoder: LogprobsEncoder) -> None:
        self.encoder = encoder
        self._held: list[tuple[bytes, Iterable[bytes]]] = []
        self._count = 0

    def hold(self, pattern: str, pieces: Iterable[bytes]) -> str:
        """Keep a text for the answer.

        Args:
            pattern: what the placeholder's model is as JSON, where `*` stands for its name.
            pieces: of what is sent in place of all of that; read once, when its turn comes.

        Returns:
            The name, which stands in the model as a string or as the name of a field.
        """
        name = f"{_SECRET}-{self._count}-"
        self._count += 1
        self._held.append((pattern.replace("*", name).encode(), pieces))
        return name

    async def fill(self, answer: bytes) -> bytes:
        """The answer with our texts in place of its placeholders.

        Raises:
            RuntimeError: a placeholder's JSON is not what it was announced to be.
        """
        parts, rest, written = [], 0, 0
        for placeholder, pieces in self._held:
            # Placeholders stand in the order in which they were made, if at all.
            found = answer.find(placeholder, rest)
            if found < 0:
                continue
            parts.append(_without_secret(answer[rest:found]))
            rest = found + len(placeholder)
            for piece in pieces:
                parts.append(piece)
                written += len(piece)
                if written > _TURN:
                    written = 0
                    await asyncio.sleep(0)
        if parts:
            # vLLM sends a chunk before it begins another, and may have dropped some.
            self._held.clear()
        return b"".join([*parts, _without_secret(answer[rest:])])

    async def fill_response(self, response: Response | None) -> Any:
        """Fill in the placeholders of a response of vLLM's routes, now or as it is streamed.

        Args:
            response: None where the client has left.
        """
        if isinstance(response, StreamingResponse):
            response.body_iterator = self._fill_chunks(response.body_iterator)
        elif response is not None and self._held:
            response.body = await self.fill(bytes(response.body))
            response.headers["content-length"] = str(len(response.body))
        return response

    async def _fill_chunks(self, chunks: AsyncIterable[Any]) -> AsyncIterator[Any]:
        async with aclosing(chunks):  # type: ignore[type-var]
            async for chunk in chunks:
                if self._held:
                    chunk = await self.fill(chunk.encode() if isinstance(chunk, str) else chunk)
                yield chunk


def _without_secret(part: bytes) -> bytes:
    """
    Raises:
        RuntimeError: there is a placeholder in it, which nobody has asked for.
    """
    if _SECRET_BYTES in part:
        raise RuntimeError("the JSON of a placeholder is not what it is known to be")
    return part


class SplicedRequest(BaseModel):
    """A mixin for requests whose answers can take spliced text."""

    _splices: Splices | None = PrivateAttr(default=None)

    @property
    def splices(self) -> Splices | None:
        """The answer's placeholders; None where nobody will fill them in."""
        return self._splices

    def take_splices(self, splices: Splices) -> None:
        """Let the answer have placeholders, which the caller promises to fill in."""
        self._splices = splices
