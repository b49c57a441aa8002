"""The scorer, as those see it who ask it: a `ForcingBackend` at the other end of a socket."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from itertools import count
from typing import Any, Final

from conf_server.backends.base import Caller, ForcingItem, ForcingJob, LabelQuestion, Limits
from conf_server.backends.forcing import LABELS_IN_FLIGHT
from conf_server.concurrency import together
from conf_server.refusal import RefusalError
from conf_server.scorer.wire import (
    TO_CLIENT,
    Answer,
    AskForce,
    AskLabels,
    AskMove,
    AskPrepare,
    AskStates,
    Cancel,
    Failed,
    FrameTooLargeError,
    Hello,
    Question,
    Refused,
    WireError,
    WireItem,
    WirePrompt,
    frame,
    unavailable,
)
from conf_server.stats.forced import (
    ForcedLabels,
    ForcedRows,
    ForcedStates,
    WantedRows,
    WantedStates,
)

CONNECT_S: Final = 10.0
"""Seconds that a process may take to say hello. One that works on a text needs a moment."""


class ScorerFailedError(RuntimeError):
    """The scorer could not answer, for a reason that nobody has foreseen."""


class ScorerBackend:
    """Asks the scorer's process.

    Every question raises a `RefusalError` of status 503 while there is no process, or has too many
    questions, or if it ends with the question unanswered. The next one looks for a process again.
    """

    def __init__(self, path: str, hello: Hello) -> None:
        """
        Args:
            path: of the socket.
            hello: what the process has said when it had loaded the model. It may be gone since.
        """
        self._path = path
        self._hello = hello
        self._connection: _Connection | None = None
        self._connecting = asyncio.Lock()

    @property
    def model(self) -> str:
        """Folder or name of the scorer's model."""
        return self._hello.model

    def limits(self) -> Limits:
        return self._hello.limits

    async def prepare(self, items: Iterable[ForcingItem]) -> list[ForcingJob]:
        wired = [WireItem.of(item) for item in items]
        prepared: list[ForcingJob] = await self._ask(AskPrepare, wired)
        return prepared

    async def force(
        self, jobs: Sequence[ForcingJob], wanted: WantedRows, caller: Caller
    ) -> list[ForcedRows]:
        rows: list[ForcedRows] = await self._ask(AskForce, list(jobs), wanted, _known(caller))
        return rows

    async def states(
        self, jobs: Sequence[ForcingJob], wanted: WantedStates, caller: Caller
    ) -> list[ForcedStates]:
        states: list[ForcedStates]
        states = await self._ask(AskStates, list(jobs), wanted, _known(caller))
        return states

    async def labels(
        self,
        questions: Iterable[Callable[[], LabelQuestion]],
        caller: Caller,
        advance: Callable[[], None] = lambda: None,
    ) -> list[ForcedLabels]:
        """Each question is made and sent when its turn comes, as in `TextForcing.labels`."""
        waiting = enumerate(questions)
        found: dict[int, ForcedLabels] = {}

        async def work() -> None:
            for place, make in waiting:
                question = make()
                prompt = WirePrompt.of(question.prompt)
                found[place] = await self._ask(AskLabels, prompt, question.labels, _known(caller))
                advance()

        await together(*(work() for _ in range(LABELS_IN_FLIGHT)))
        return [found[place] for place in range(len(found))]

    async def reach(self) -> None:
        """Make sure that there is a process to ask.

        Raises:
            RefusalError: there is none, status 503.
        """
        await self._connected()

    async def move(self, on_device: bool) -> None:
        """Let a parked scorer bring its weights onto the GPU, or take them away from it.

        Raises:
            RefusalError: there is no room for them, status 503.
        """
        await self._ask(AskMove, on_device)

    async def close(self) -> None:
        """Leave the process. A question that is asked afterwards connects again."""
        if self._connection is not None:
            await self._connection.close()

    async def _ask(self, kind: Callable[..., Question], *fields: Any) -> Any:
        connection = await self._connected()
        return await connection.ask(lambda number: kind(number, *fields))

    async def _connected(self) -> _Connection:
        async with self._connecting:
            if self._connection is None or not self._connection.is_open:
                self._connection = await self._connect()
            return self._connection

    async def _connect(self) -> _Connection:
        try:
            async with asyncio.timeout(CONNECT_S):
                reader, writer = await asyncio.open_unix_connection(self._path)
                hello = await TO_CLIENT.read(reader)
        except (OSError, TimeoutError) as error:
            raise unavailable(
                "the scorer does not answer: it is being started again, or loads its model."
            ) from error
        if not isinstance(hello, Hello):
            writer.close()
            raise unavailable("the scorer has ended.")
        self._hello = hello
        return _Connection(reader, writer)


def _known(caller: Caller) -> Caller:
    """What the scorer has to know of a caller: not the headers, with a client's keys in them."""
    return Caller(caller.request_id, origin=caller.origin)


class _Connection:
    """Questions on their way, and the answers to them in any order.

    Attributes:
        is_open: whether questions can still be asked.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.is_open = True
        self._reader = reader
        self._writer = writer
        self._numbers = count()
        self._asked: dict[int, asyncio.Future[Any]] = {}
        self._listening = asyncio.create_task(self._listen())

    async def ask(self, make: Callable[[int], Question]) -> Any:
        """The result of a question.

        Args:
            make: of the question's number.
        """
        number = next(self._numbers)
        try:
            body = frame(make(number))
        except FrameTooLargeError as error:
            raise RefusalError(None, f"too much for the scorer at a time: {error}.") from error
        answer = self._asked[number] = asyncio.get_running_loop().create_future()
        try:
            self._writer.write(body)
            return await answer
        except asyncio.CancelledError:
            if self.is_open:
                self._writer.write(frame(Cancel(number)))
            raise
        finally:
            del self._asked[number]

    async def close(self) -> None:
        self._listening.cancel()
        await asyncio.gather(self._listening, return_exceptions=True)

    async def _listen(self) -> None:
        reason = "the scorer has ended with the request unanswered."
        try:
            while (answer := await TO_CLIENT.read(self._reader)) is not None:
                self._settle(answer)
        except WireError as error:
            reason = f"the scorer cannot be understood: {error}."
        finally:
            self.is_open = False
            self._writer.close()
            for waiting in self._asked.values():
                if not waiting.done():
                    waiting.set_exception(unavailable(reason))

    def _settle(self, answer: Answer) -> None:
        waiting = self._asked.get(answer.number)
        if waiting is None or waiting.done():
            return  # nobody waits any more
        if isinstance(answer, Refused):
            waiting.set_exception(answer.error())
        elif isinstance(answer, Failed):
            waiting.set_exception(ScorerFailedError(answer.message))
        else:
            waiting.set_result(answer.result)
