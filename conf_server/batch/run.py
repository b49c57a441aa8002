"""One run: it keeps a bounded number of requests under way, and writes each answer as it comes."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from tqdm import tqdm  # type: ignore[import-untyped]

from conf_server import terminal
from conf_server.batch.batch_client import BatchClient
from conf_server.batch.endpoint import LineError
from conf_server.batch.options import BatchOptions, StopRunError
from conf_server.batch.output import Output
from conf_server.batch.records import Record, parse_record
from conf_server.client.server_error import ServerError
from conf_server.concurrency import cancel_all
from conf_server.signals import Signals

GRACE_S: Final = 10.0
"""How long a signal waits for the requests under way. A second signal does not wait."""


@dataclass
class Counts:
    """How many lines a run has dealt with.

    Attributes:
        answered: lines that this run has written an answer for.
        failed: lines that this run has written an error for.
        there: lines that an earlier run has answered.
        begun: whether a server has answered, and the output has been opened for its answers.
    """

    answered: int = 0
    failed: int = 0
    there: int = 0
    begun: bool = False


class Run:
    """Sends the lines of an input to one server, and writes what it answers."""

    def __init__(
        self,
        options: BatchOptions,
        client: BatchClient,
        output: Output,
        bar: tqdm,
        counts: Counts,
        server: str,
        model: str,
    ) -> None:
        """
        Args:
            server: what answers, in words, for the lines of the output.
            model: the name of the model that answers where a request names none.
        """
        self._options = options
        self._client = client
        self._output = output
        self._bar = bar
        self._counts = counts
        self._server = server
        self._model = model
        self._room = asyncio.Semaphore(options.concurrency)
        self._under_way: set[asyncio.Task[None]] = set()
        self._error: BaseException | None = None

    async def run(self, lines: AsyncIterator[tuple[int, bytes]], signals: Signals) -> None:
        """Send the lines until there are no more, or until a signal stops the run.

        Args:
            lines: numbers and lines of the input that have no answer.

        Raises:
            StopRunError: no further line can be answered.
            OSError: nothing more can be written.
        """
        feeder = asyncio.create_task(self._feed(lines))
        feeder.add_done_callback(self._done)
        stopping = asyncio.create_task(self._client.stopping.wait())
        try:
            with signals.stopping(self._stop):
                await asyncio.wait({feeder, stopping}, return_when=asyncio.FIRST_COMPLETED)
                feeder.cancel()
                while self._under_way and not stopping.done():
                    tasks = {stopping, *self._under_way}
                    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                if self._under_way:
                    await asyncio.wait(self._under_way, timeout=GRACE_S)
        finally:
            await cancel_all({feeder, stopping, *self._under_way})
        if self._error is not None:
            raise self._error

    def _stop(self) -> None:
        self._client.stopping.set()
        if self._under_way:
            self._tell(
                f"stopping: up to {GRACE_S:g} s for requests under way "
                f"({len(self._under_way)}); a second signal does not wait"
            )

    def _done(self, task: asyncio.Task[None]) -> None:
        self._under_way.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._error = self._error or error
            self._client.stopping.set()

    async def _feed(self, lines: AsyncIterator[tuple[int, bytes]]) -> None:
        options = self._options
        async for number, text in lines:
            if not text.strip():
                continue
            try:
                record = parse_record(options.endpoint, number, text, options.defaults)
                record.check_label()
            except LineError as error:
                message = {"message": str(error), "type": "invalid_line", "code": None}
                self._fail(number, {}, message)
                continue
            await self._room.acquire()
            task = asyncio.create_task(self._answer(record))
            self._under_way.add(task)
            task.add_done_callback(self._done)

    async def _answer(self, record: Record) -> None:
        try:
            result = await self._client.post(record.payload)
        except ServerError as error:
            self._fail(record.line, record.kept, error.error)
        else:
            if not record.names_model and result.get("model") != self._model:
                raise StopRunError(
                    f"line {record.line}: an answer of model {result.get('model')!r}, "
                    f"where the server had {self._model!r} at the start",
                    goes_on=False,
                )
            self._output.write(record.answered(self._server, result).to_json())
            self._counts.answered += 1
            self._bar.update()
        finally:
            self._room.release()

    def _fail(self, number: int, kept: Mapping[str, Any], error: Mapping[str, Any]) -> None:
        self._output.write({"line": number, **kept, "error": error})
        self._counts.failed += 1
        self._bar.update()
        self._tell(f"line {number}: {error.get('message')}")

    def _tell(self, text: str) -> None:
        line = terminal.message(f"conf-server {self._options.endpoint.command}: {text}")
        tqdm.write(line, file=sys.stderr)
