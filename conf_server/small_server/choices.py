"""A request's answers as they are made: piece by piece, of several prompts at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from conf_server.backends.base import Ask, Caller
from conf_server.backends.streaming import Piece, StreamingBackend
from conf_server.concurrency import cancel_all
from conf_server.serving.confidence import Confidence
from conf_server.serving.trace_delta import TraceDelta
from conf_server.stats.early_stop import EarlyStop
from conf_server.stats.forced import WantedRows
from conf_server.stats.row_layout import ColumnGroup
from conf_server.stats.trace import TokenTrace

UNTOLD = WantedRows(top_k=1, candidates=0, statistics=False)
"""The rows of answers of which nothing but the text is told: they count the tokens."""


@dataclass(frozen=True)
class Generation:
    """A request that was checked.

    Attributes:
        asks: one for each prompt, with its tokens.
        confidence: what answers carry beside their text; None for nothing.
        shown: candidates of each token that the client wants to see (-1: all).
    """

    asks: Sequence[tuple[Ask, Sequence[int]]]
    caller: Caller
    confidence: Confidence | None
    shown: int

    @property
    def wanted(self) -> WantedRows:
        """What the backend has to tell of each token."""
        confidence = self.confidence
        if confidence is None or confidence.mode == "empty":
            return UNTOLD
        width = confidence.width(self.shown)
        return WantedRows(confidence.top_k, width, confidence.engine_statistics)

    @property
    def early_stop(self) -> EarlyStop | None:
        """When an answer is ended; None for never."""
        return None if self.confidence is None else self.confidence.early_stop

    @property
    def prompt_tokens(self) -> int:
        """Of all prompts."""
        return sum(len(ids) for _, ids in self.asks)


@dataclass
class Choice:
    """One answer, as far as it has come.

    Attributes:
        index: its number among all of the request.
        trace: its tokens; None where nothing is told of them.
        num_tokens: generated so far.
        text_length: characters of the tokens that /v1/completions has shown.
        estimates: the default ones of the answer, once it is complete.
    """

    index: int
    trace: TokenTrace | None
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    finish_reason: str | None = None
    stop_reason: str | int | None = None
    text_length: int = 0
    estimates: Mapping[str, Any] = field(default_factory=dict)

    @property
    def num_tokens(self) -> int:
        return len(self.token_ids)

    def take(self, piece: Piece) -> None:
        """Go on with a piece."""
        self.text += piece.text
        self.token_ids += piece.rows.token_ids.tolist()
        if self.trace is not None:
            self.trace.extend(piece.rows)
        self.finish_reason, self.stop_reason = piece.finish_reason, piece.stop_reason

    def delta(self, confidence: Confidence, start: int) -> TraceDelta:
        """What is told of the tokens from `start` on."""
        finished = self.finish_reason is not None
        return TraceDelta(
            confidence, self.trace, start, self.num_tokens, finished, estimates=self.estimates
        )


def new_choices(generation: Generation) -> list[Choice]:
    """The answers of a request, of which nothing is known yet: n of each prompt in turn."""
    wanted, told = generation.wanted, generation.confidence
    groups = (ColumnGroup.STATISTICS,) if wanted.statistics else ()
    count = sum(ask.n for ask, _ in generation.asks)
    kept = told is not None and told.mode != "empty"
    return [
        Choice(index, TokenTrace(wanted.width, groups) if kept else None) for index in range(count)
    ]


async def pieces(backend: StreamingBackend, generation: Generation) -> AsyncGenerator[Piece, None]:
    """All pieces of all prompts as they come; their index is that of the request's choice.

    Closing the generator, or cancelling who waits for it, ends the work.

    Raises:
        RefusalError: the backend refuses to go on.
    """
    if len(generation.asks) == 1:
        (ask, _), wanted = generation.asks[0], generation.wanted
        stream = backend.stream(ask, wanted, generation.caller, generation.early_stop)
        async with aclosing(stream) as alone:
            async for piece in alone:
                yield piece
        return
    async with _merged(backend, generation) as queue:
        while (found := await queue.get()) is not None:
            if isinstance(found, BaseException):
                raise found
            yield found


@asynccontextmanager
async def _merged(
    backend: StreamingBackend, generation: Generation
) -> AsyncGenerator[asyncio.Queue[Piece | BaseException | None], None]:
    """A queue of the pieces of several prompts; None stands at its end."""
    queue: asyncio.Queue[Piece | BaseException | None] = asyncio.Queue(1)

    async def one(number: int, ask: Ask) -> None:
        caller = replace(generation.caller, request_id=f"{generation.caller.request_id}-{number}")
        stream = backend.stream(ask, generation.wanted, caller, generation.early_stop)
        async with aclosing(stream) as pieces_of_one:
            async for piece in pieces_of_one:
                await queue.put(replace(piece, index=number * ask.n + piece.index))

    async def all_of_them() -> None:
        try:
            async with asyncio.TaskGroup() as group:
                for number, (ask, _) in enumerate(generation.asks):
                    group.create_task(one(number, ask))
        except BaseExceptionGroup as errors:
            await queue.put(errors.exceptions[0])
        else:
            await queue.put(None)

    work = asyncio.create_task(all_of_them())
    try:
        yield queue
    finally:
        await cancel_all((work,))
