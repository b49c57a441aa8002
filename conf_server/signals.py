"""SIGINT and SIGTERM in the commands: the first ends the work, the second ends it at once."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


class Signals:
    """Signals in an event loop: the first one stops the work gently, the second one at once.

    Attributes:
        received: the number of the first signal; None for none.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._stop: Callable[[], object] | None = None

    @contextmanager
    def handled(self) -> Iterator[None]:
        """Handle both signals. The task that enters this is the one that a signal cancels."""
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None

        def handle(number: int) -> None:
            stop = task.cancel if self._stop is None or self.received else self._stop
            self.received = self.received or number
            stop()

        for number in SIGNALS:
            loop.add_signal_handler(number, handle, number)
        try:
            yield
        finally:
            for number in SIGNALS:
                loop.remove_signal_handler(number)

    @contextmanager
    def stopping(self, stop: Callable[[], object]) -> Iterator[None]:
        """While this lasts, the first signal calls `stop` and cancels nothing."""
        self._stop = stop
        try:
            yield
        finally:
            self._stop = None


@contextmanager
def ending_on_signals() -> Iterator[None]:
    """The first signal raises SystemExit(128 + signal). The second one exits at once.

    The second one kills child processes too, such as an engine's. This is for code outside an
    event loop or around one: asyncio's own handler of SIGINT would only cancel a task, which an
    engine that is starting notices no earlier than when it has started.
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
