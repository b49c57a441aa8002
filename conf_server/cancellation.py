"""Work in threads that ends when nobody waits for it any more."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, ThreadPoolExecutor
from typing import TypeVar

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
