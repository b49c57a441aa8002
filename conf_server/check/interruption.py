"""SIGINT and SIGTERM end a check together with the engine that it has started."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def ending_on_signals() -> Iterator[None]:
    """The first signal raises SystemExit(128 + signal). The second kills the engine and exits.

    Asyncio's own handler of SIGINT would only cancel a task, which an engine that is starting
    notices no earlier than when it has started.
    """
    handler = _Handler()
    before = {number: signal.signal(number, handler) for number in SIGNALS}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


class _Handler:
    def __init__(self) -> None:
        self._received = False

    def __call__(self, number: int, _frame: object) -> None:
        if not self._received:
            self._received = True
            raise SystemExit(128 + number)
        for process in multiprocessing.active_children():
            process.kill()
        os._exit(128 + number)
