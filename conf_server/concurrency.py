"""Helpers for threads and tasks: work ends with those who wait for it, and with its company."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import CancelledError, ThreadPoolExecutor
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
