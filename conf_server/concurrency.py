"""Helpers for threads and tasks: work ends with those who wait for it, and with its company."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, TypeVar

Result = TypeVar("Result")
Cancelled = Callable[[], bool]


def never() -> bool:
    """Say that the caller still waits: for work whose caller cannot be cancelled."""
    return False


def raise_if(cancelled: Cancelled) -> None:
    """Raise concurrent.futures.CancelledError if nobody waits any more."""
    if cancelled():
        raise CancelledError


async def in_thread(pool: ThreadPoolExecutor, work: Callable[[Cancelled], Result]) -> Result:
    """Run `work` in a thread of the pool, and return its result.

    Args:
        work: gets a function that says whether the caller was cancelled. It should ask now and
            then, and end when that is so.
    """
    gone = threading.Event()
    try:
        return await asyncio.get_running_loop().run_in_executor(pool, work, gone.is_set)
    except asyncio.CancelledError:
        gone.set()
        raise


class Budget:
    """So much of something that may be used at a time. Those who want some get it in turn."""

    def __init__(self, limit: int) -> None:
        self._limit = self._left = limit
        self._entrance = asyncio.Lock()  # the first to wait is the first to get
        self._freed = asyncio.Event()

    @asynccontextmanager
    async def spent(self, amount: int) -> AsyncIterator[None]:
        """Use some of it for a while. More than there is at all waits for all there is."""
        amount = min(amount, self._limit)
        async with self._entrance:
            while amount > self._left:
                self._freed.clear()
                await self._freed.wait()
            self._left -= amount
        try:
            yield
        finally:
            self._left += amount
            self._freed.set()


async def together(*work: Coroutine[Any, Any, Any]) -> list[Any]:
    """Run all, and return their results in order.

    The first failure cancels the others and is raised as it is, not in an exception group.
    """
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(part) for part in work]
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return [task.result() for task in tasks]


async def cancel_all(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel the tasks that still run, and wait until all have ended."""
    tasks = list(tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
