"""Clients of the scorer's process, answered side by side with one backend."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial

from conf_server.backends.base import Caller, ForcingBackend
from conf_server.concurrency import cancel_all
from conf_server.refusal import RefusalError
from conf_server.scorer.wire import (
    FROM_CLIENT,
    Answer,
    AskForce,
    AskLabels,
    AskMove,
    AskPrepare,
    Cancel,
    Failed,
    FrameTooLargeError,
    Hello,
    Labels,
    Moved,
    Prepared,
    Question,
    Refused,
    Rows,
    States,
    WireError,
    frame,
    unavailable,
)

Move = Callable[[bool], Awaitable[None]]

logger = logging.getLogger("vllm.conf_server.scorer")


class Connections:
    """Answers whoever connects. Work ends with the connection that it came from."""

    def __init__(
        self, backend: ForcingBackend, hello: Hello, max_queue: int, move: Move | None = None
    ) -> None:
        """
        Args:
            hello: what a client is told first.
            max_queue: requests that may be at work or wait, of all clients together. What is asked
                for one request counts once.
            move: brings the backend's weights onto the GPU, or takes them away; None for a backend
                that keeps them where they are.
        """
        self._move = move
        self._backend = backend
        self._hello = hello
        self._max_queue = max_queue
        self._requests: Counter[str] = Counter()

    async def listen(self, path: str) -> asyncio.Server:
        """Accept connections on a unix socket. One that a dead process has left is replaced."""
        return await asyncio.start_unix_server(self._serve, path)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answering: dict[int, asyncio.Task[None]] = {}
        try:
            writer.write(frame(self._hello))
            while (message := await FROM_CLIENT.read(reader)) is not None:
                number = message.number
                if not isinstance(message, Cancel):
                    task = asyncio.create_task(self._answer(message, writer))
                    answering[number] = task
                    task.add_done_callback(partial(_forget, answering, number))
                elif number in answering:  # otherwise its answer is on its way already
                    answering[number].cancel()
        except WireError as error:
            logger.error("A connection to the scorer is closed: %s.", error)
        finally:
            await cancel_all(answering.values())
            writer.close()

    async def _answer(self, question: Question, writer: asyncio.StreamWriter) -> None:
        number = question.number
        answer: Answer
        try:
            answer = await self._asked(question)
        except RefusalError as error:
            answer = Refused.of(number, error)
        except Exception as error:
            logger.exception("The scorer cannot answer.")
            answer = Failed(number, f"{type(error).__name__}: {error}")
        try:
            body = frame(answer)
        except FrameTooLargeError as error:
            body = frame(Refused.of(number, RefusalError(None, f"the scorer's answer has {error}")))
        try:
            writer.write(body)
            await writer.drain()
        except ConnectionError:
            logger.info("A client has gone before it had its answer.")

    async def _asked(self, question: Question) -> Answer:
        backend, number = self._backend, question.number
        if isinstance(question, AskPrepare):
            return Prepared(number, await backend.prepare(item.item() for item in question.items))
        if isinstance(question, AskMove):
            if self._move is not None:
                await self._move(question.on_device)
            return Moved(number, None)
        with self._admitted(question.caller):
            if isinstance(question, AskForce):
                rows = await backend.force(question.jobs, question.wanted, question.caller)
                return Rows(number, rows)
            if isinstance(question, AskLabels):
                (labels,) = await backend.labels([question.question], question.caller)
                return Labels(number, labels)
            states = await backend.states(question.jobs, question.wanted, question.caller)
            return States(number, states)

    @contextmanager
    def _admitted(self, caller: Caller) -> Iterator[None]:
        request = caller.origin or caller.request_id
        if request not in self._requests and len(self._requests) >= self._max_queue:
            raise unavailable(
                f"the scorer has {len(self._requests)} requests already (--scorer-max-queue)."
            )
        self._requests[request] += 1
        try:
            yield
        finally:
            self._requests[request] -= 1
            if not self._requests[request]:
                del self._requests[request]


def _forget(
    answering: dict[int, asyncio.Task[None]], number: int, _done: asyncio.Task[None]
) -> None:
    del answering[number]
