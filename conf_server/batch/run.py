"""One run: a bounded number of requests under way, each answer written as it comes."""

from __future__ import annotations

import asyncio
import gzip
import signal
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any, Final

from tqdm import tqdm  # type: ignore[import-untyped]

from conf_server.batch.client import Client, RefusedError, StopRunError
from conf_server.batch.options import BatchOptions, UsageError
from conf_server.batch.records import LineError, Record, parse_record
from conf_server.batch.streams import Output, input_lines

GRACE_S: Final = 10.0
"""How long a signal waits for the requests under way. A second signal does not wait."""


class Signals:
    """SIGINT and SIGTERM: the first stops what is going on, the second everything."""

    def __init__(self) -> None:
        self.received: int | None = None
        self._stop: Callable[[], object] | None = None

    @contextmanager
    def handled(self) -> Iterator[None]:
        """To be entered in the task that is to be cancelled."""
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None

        def handle(number: int) -> None:
            stop = task.cancel if self._stop is None or self.received else self._stop
            self.received = self.received or number
            stop()

        numbers = (signal.SIGINT, signal.SIGTERM)
        for number in numbers:
            loop.add_signal_handler(number, handle, number)
        try:
            yield
        finally:
            for number in numbers:
                loop.remove_signal_handler(number)

    @contextmanager
    def stopping(self, stop: Callable[[], object]) -> Iterator[None]:
        """While this lasts, the first signal calls `stop` and cancels nothing."""
        self._stop = stop
        try:
            yield
        finally:
            self._stop = None


@dataclass
class Counts:
    """Lines of this run.

    Attributes:
        answered: with an answer in the output.
        failed: with an error in the output.
        there: answered by an earlier run.
    """

    answered: int = 0
    failed: int = 0
    there: int = 0


class Run:
    """Reads, sends, writes."""

    def __init__(
        self, options: BatchOptions, client: Client, output: Output, bar: tqdm, counts: Counts
    ) -> None:
        self._options = options
        self._client = client
        self._output = output
        self._bar = bar
        self._counts = counts
        self._room = asyncio.Semaphore(options.concurrency)
        self._under_way: set[asyncio.Task[None]] = set()
        self._error: BaseException | None = None

    async def run(self, file: IO[bytes], signals: Signals) -> None:
        """Until the end of the input, or until a signal has stopped it.

        Raises:
            StopRunError, UsageError, OSError: nothing more can be answered, or written.
        """
        feeder = asyncio.create_task(self._feed(file))
        feeder.add_done_callback(self._done)
        stopping = asyncio.create_task(self._client.stopping.wait())
        try:
            with signals.stopping(self._client.stopping.set):
                await asyncio.wait({feeder, stopping}, return_when=asyncio.FIRST_COMPLETED)
                feeder.cancel()
                while self._under_way and not stopping.done():
                    tasks = {stopping, *self._under_way}
                    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                if self._under_way:
                    await asyncio.wait(self._under_way, timeout=GRACE_S)
        finally:
            tasks = {feeder, stopping, *self._under_way}
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        if self._error is not None:
            raise self._error

    def _done(self, task: asyncio.Task[None]) -> None:
        self._under_way.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._error = self._error or error
            self._client.stopping.set()

    async def _feed(self, file: IO[bytes]) -> None:
        number = 0
        try:
            async for text in input_lines(file):
                number += 1
                if text.strip():
                    await self._take(number, text)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise StopRunError(f"{self._options.input}: after line {number}: {error}") from error

    async def _take(self, number: int, text: bytes) -> None:
        before = self._output.found.digest(number)
        try:
            record = parse_record(self._options.endpoint, number, text, self._options.defaults)
        except LineError as error:
            if before:
                raise self._changed(number) from error
            self._fail(number, {}, {"message": str(error), "type": "invalid_line", "code": None})
            return
        if before == record.digest:
            self._counts.there += 1
        elif before:
            raise self._changed(number)
        else:
            await self._room.acquire()
            task = asyncio.create_task(self._answer(record))
            self._under_way.add(task)
            task.add_done_callback(self._done)

    def _changed(self, number: int) -> UsageError:
        return UsageError(
            f"line {number} or the flags have changed since {self._options.output} was written; "
            "--overwrite starts anew"
        )

    async def _answer(self, record: Record) -> None:
        try:
            result = await self._client.post(record.payload)
        except RefusedError as error:
            self._fail(record.line, record.kept, error.error)
        else:
            self._output.write(record.answered(result))
            self._counts.answered += 1
            self._bar.update()
        finally:
            self._room.release()

    def _fail(self, number: int, kept: Mapping[str, Any], error: Mapping[str, Any]) -> None:
        self._output.write({"line": number, **kept, "error": error})
        self._counts.failed += 1
        self._bar.update()
        command = f"conf-server {self._options.endpoint.command}"
        tqdm.write(f"{command}: line {number}: {error.get('message')}", file=sys.stderr)
