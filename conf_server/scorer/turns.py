"""An engine and a scorer that have one GPU in turn: one model is in its memory at a time.

The engine has the GPU until the scorer is asked something. Then the engine ends what it has begun
and sleeps, the scorer's weights come, and everything that is asked of it within the turn is
answered. A turn ends when nothing is asked any more, or is closed to newcomers after a while, so
that the engine's requests are not kept waiting for ever. Likewise the engine keeps the GPU for as
long as the scorer has just had it, if it has anything to do.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Final, Protocol

from conf_server.backends.base import Caller, ForcingItem, ForcingJob, LabelQuestion, Limits
from conf_server.refusal import RefusalError
from conf_server.scorer.scorer_backend import ScorerBackend
from conf_server.stats.forced import (
    ForcedLabels,
    ForcedRows,
    ForcedStates,
    WantedRows,
    WantedStates,
)

OPEN_S: Final = 5.0
"""Seconds for which a turn of the scorer's takes what is asked."""
POLL_S: Final = 0.02
"""Seconds between two looks at an engine that is to have its share."""

logger = logging.getLogger("vllm.conf_server.scorer")


class Sleeper(Protocol):
    """An engine that can give the GPU away and have it back."""

    async def sleep(self) -> None:
        """End what has begun, keep what comes, and give the memory back."""
        ...

    async def wake_up(self) -> None:
        """Have the memory again, and go on."""
        ...

    def is_asked(self) -> bool:
        """Whether it has anything to do."""
        ...


class Turns:
    """Who has the GPU.

    The engine has it at first. Whoever needs the scorer writes

        async with turns.of_scorer():
            ...
    """

    def __init__(
        self, engine: Sleeper, move: Callable[[bool], Awaitable[None]], open_s: float = OPEN_S
    ) -> None:
        """
        Args:
            move: brings the scorer's weights onto the GPU, or takes them away from it.
            open_s: seconds for which a turn of the scorer's takes newcomers.
        """
        self._engine = engine
        self._move = move
        self._open_s = open_s
        self._is_open = False
        self._users = 0
        self._nobody = asyncio.Event()
        self._nobody.set()
        self._waiting: list[asyncio.Future[None]] = []
        self._driver: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def of_scorer(self) -> AsyncIterator[None]:
        """While this holds, the scorer has the GPU.

        Raises:
            RefusalError: the scorer cannot have it.
        """
        if self._is_open:
            self._enter()
        else:
            admitted = asyncio.get_running_loop().create_future()
            self._waiting.append(admitted)
            if self._driver is None or self._driver.done():
                self._driver = asyncio.create_task(self._drive())
            try:
                await admitted
            except asyncio.CancelledError:
                if admitted.done() and not admitted.cancelled() and not admitted.exception():
                    self._leave()  # admitted and cancelled at once
                raise
        try:
            yield
        except RefusalError as error:
            # The process has ended, maybe: the one that follows has no weights on the GPU yet.
            self._is_open = self._is_open and error.status != 503
            raise
        finally:
            self._leave()

    def _enter(self) -> None:
        self._users += 1
        self._nobody.clear()

    def _leave(self) -> None:
        self._users -= 1
        if not self._users:
            self._nobody.set()

    async def _drive(self) -> None:
        """Give the scorer turns as long as somebody waits for one."""
        took = 0.0
        while self._forget_those_gone():
            await self._share_of_engine(took)
            began = time.monotonic()
            try:
                await self._engine.sleep()
                try:
                    await self._turn()
                finally:
                    await self._engine.wake_up()
            except Exception as error:  # also of an engine that has died: nobody is to wait on
                logger.exception("The scorer could not have its turn.")
                self._refuse(error)
            took = time.monotonic() - began

    async def _turn(self) -> None:
        try:
            await self._move(True)
        except RefusalError as error:
            self._refuse(error)
            return
        try:
            self._is_open = True
            for admitted in self._forget_those_gone():
                self._enter()
                admitted.set_result(None)
            self._waiting.clear()
            closing = asyncio.get_running_loop().call_later(self._open_s, self._close)
            try:
                await self._nobody.wait()
            finally:
                closing.cancel()
                self._close()
        finally:
            try:
                await self._move(False)
            except RefusalError as error:  # a process that has ended has given everything back
                logger.warning("The scorer did not leave the GPU by itself: %s", error)

    def _close(self) -> None:
        self._is_open = False

    async def _share_of_engine(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while self._engine.is_asked() and time.monotonic() < until:
            await asyncio.sleep(POLL_S)

    def _forget_those_gone(self) -> list[asyncio.Future[None]]:
        self._waiting = [future for future in self._waiting if not future.done()]
        return self._waiting

    def _refuse(self, error: Exception) -> None:
        for future in self._forget_those_gone():
            future.set_exception(error)
        self._waiting.clear()


class ScorerInTurn:
    """A scorer that has the GPU in turn with the engine. It is a `ForcingBackend`.

    While there is no process, a question is refused before the engine is put to sleep for it.
    """

    def __init__(self, scorer: ScorerBackend, engine: Sleeper) -> None:
        self._scorer = scorer
        self._turns = Turns(engine, scorer.move)

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        await self._scorer.reach()
        async with self._turns.of_scorer():
            yield

    def limits(self) -> Limits:
        return self._scorer.limits()

    async def prepare(self, items: Iterable[ForcingItem]) -> list[ForcingJob]:
        """Without the GPU: a tokenizer needs none."""
        return await self._scorer.prepare(items)

    async def force(
        self, jobs: Sequence[ForcingJob], wanted: WantedRows, caller: Caller
    ) -> list[ForcedRows]:
        async with self._turn():
            return await self._scorer.force(jobs, wanted, caller)

    async def states(
        self, jobs: Sequence[ForcingJob], wanted: WantedStates, caller: Caller
    ) -> list[ForcedStates]:
        async with self._turn():
            return await self._scorer.states(jobs, wanted, caller)

    async def labels(
        self,
        questions: Iterable[Callable[[], LabelQuestion]],
        caller: Caller,
        advance: Callable[[], None] = lambda: None,
    ) -> list[ForcedLabels]:
        async with self._turn():
            return await self._scorer.labels(questions, caller, advance)
