"""Threads and tasks: work that ends when nobody waits for it, and work that belongs together."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import CancelledError, ThreadPoolExecutor
from typing import Any, TypeVar

Result = TypeVar("Result")
Cancelled = Callable[[], bool]


def never() -> bool:
    """Somebody waits."""
    return False


def raise_if(cancelled: Cancelled) -> None:
    """Raise CancelledError (of concurrent.futures) if nobody waits."""
    if cancelled():
        raise CancelledError


async def in_thread(pool: ThreadPoolExecutor, work: Callable[[Cancelled], Result]) -> Result:
    """What `work` returns.

    Args:
        work: gets a function that says whether the caller was cancelled; it asks now and then.
    """
    gone = threading.Event()
    try:
        return await asyncio.get_running_loop().run_in_executor(pool, work, gone.is_set)
    except asyncio.CancelledError:
        gone.set()
        raise


async def together(*work: Coroutine[Any, Any, Any]) -> list[Any]:
    """All results, in order; the first failure cancels the rest and is raised as it is."""
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
