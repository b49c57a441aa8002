"""One thread that runs the model, and the batches in which forced texts reach it."""

from __future__ import annotations

import asyncio
from bisect import insort
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from conf_server.backends.transformers_forward import ForcedWork
from conf_server.refusal import RefusalError
from conf_server.stats.forced import ForcedRows, ForcedStates

Result = TypeVar("Result")
Forced = ForcedRows | ForcedStates
Run = Callable[[list[ForcedWork]], Sequence[Forced | RefusalError]]


class ModelThread:
    """The one thread that runs the model.

    Whoever has several things to do asks for a turn each time. Turns are given in the order in
    which they are asked for, so that a long request does not hold up a short one.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="transformers-model")

    async def turn(self, work: Callable[[], Result]) -> Result:
        """Run `work` when its turn comes. A turn that has begun goes on after a cancellation."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    def close(self) -> None:
        """Let the turn that runs end, and give no more."""
        self._pool.shutdown(wait=True, cancel_futures=True)


@dataclass(frozen=True)
class BatchLimits:
    """How much one pass may read, unless it is a single text.

    Attributes:
        tokens: with padding.
        attention_bytes: of one layer's attention weights.
        num_heads: of a layer.
    """

    tokens: int
    attention_bytes: int
    num_heads: int

    def allow(self, count: int, longest: int, attention: bool) -> bool:
        """Whether a pass may read so many texts, padded to the longest."""
        if count * longest > self.tokens:
            return False
        weights = count * self.num_heads * longest * longest * 4
        return not attention or weights <= self.attention_bytes


@dataclass(frozen=True)
class _Waiting:
    work: ForcedWork
    future: asyncio.Future[Forced]


class ForcedBatches:
    """Texts of all requests on their way to the model.

    A batch takes one text of each request in turn until it is full. Within a request the longest
    come first, so that texts of a batch are about as long and little is padded.
    """

    def __init__(self, thread: ModelThread, run: Run, limits: BatchLimits) -> None:
        """
        Args:
            run: reads a batch, in the thread; for each text what came out, or why nothing did.
        """
        self._thread = thread
        self._run = run
        self._limits = limits
        self._waiting: dict[str, list[_Waiting]] = {}
        self._driver: asyncio.Task[None] | None = None

    async def result(self, work: ForcedWork, origin: str) -> Forced:
        """What comes of a text. Cancelled, the text is not read if its batch has not begun.

        Args:
            origin: the request that it belongs to.

        Raises:
            RefusalError: there is no memory for the text.
        """
        waiting = _Waiting(work, asyncio.get_running_loop().create_future())
        texts = self._waiting.setdefault(origin, [])
        insort(texts, waiting, key=lambda one: (one.work.has_attention, -len(one.work)))
        if self._driver is None or self._driver.done():
            self._driver = asyncio.create_task(self._drive())
        return await waiting.future

    async def _drive(self) -> None:
        while batch := self._next():
            try:
                made = await self._thread.turn(partial(self._run, [one.work for one in batch]))
            except Exception as error:
                for waiting in batch:
                    if not waiting.future.done():
                        waiting.future.set_exception(error)
                continue
            for waiting, result in zip(batch, made, strict=True):
                if waiting.future.done():
                    continue  # nobody waits any more
                if isinstance(result, RefusalError):
                    waiting.future.set_exception(result)
                else:
                    waiting.future.set_result(result)

    def _next(self) -> list[_Waiting]:
        """The next batch; empty if nothing waits."""
        for origin, texts in list(self._waiting.items()):
            texts[:] = [waiting for waiting in texts if not waiting.future.done()]
            if not texts:
                del self._waiting[origin]
        if not self._waiting:
            return []
        # The request that leads this batch stands last for the next one.
        leader = next(iter(self._waiting))
        self._waiting[leader] = self._waiting.pop(leader)
        batch = [self._waiting[leader].pop(0)]
        attention = batch[0].work.has_attention
        longest = len(batch[0].work)
        taking = list(self._waiting)
        while taking:
            for origin in tuple(taking):
                texts = self._waiting[origin]
                fits = texts and texts[0].work.has_attention == attention
                length = max(longest, len(texts[0].work)) if fits else 0
                if not fits or not self._limits.allow(len(batch) + 1, length, attention):
                    taking.remove(origin)
                    continue
                batch.append(texts.pop(0))
                longest = length
        return batch
