"""The end of a server: running requests are finished, and those that are left hear that it ends."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import uvicorn

from conf_server.serving.cut_requests import Stopping

logger = logging.getLogger("vllm.conf_server.draining")

CUT_S: Final = 2
"""Seconds in which requests that are cut off may answer that."""


class Draining(uvicorn.Server):
    """A server that cuts the requests which a drain has left, and hears them answer that.

    uvicorn cancels them and does not wait, so that no answer of theirs would be sent.
    """

    def __init__(
        self, config: uvicorn.Config, drain_s: int, stopping: Stopping, **options: Any
    ) -> None:
        """
        Args:
            drain_s: how long running requests may go on once `should_exit` is set.
            stopping: is set when those that are left are to end; see `CutRequests`.
        """
        super().__init__(config, **options)
        self.drain_s = drain_s
        self._stopping = stopping

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        end = asyncio.create_task(self._end_of_drain())
        try:
            await super().shutdown(sockets)
        finally:
            end.cancel()
        if self.force_exit:  # nobody has waited
            await self._cut()

    async def _end_of_drain(self) -> None:
        await asyncio.sleep(self.drain_s)
        await self._cut()

    async def _cut(self) -> None:
        tasks = list(self.server_state.tasks)
        if not tasks:
            return
        logger.warning("Stopping: %d requests are cut off.", len(tasks))
        self._stopping.set()
        _, left = await asyncio.wait(tasks, timeout=CUT_S / 2)
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left, timeout=CUT_S / 2)


def drain_on_signals(
    server: Draining, running: Callable[[], int], ending: Callable[[bool], None] = lambda _: None
) -> None:
    """Drain at the first signal: take no new connections, finish what runs. Stop at the second.

    Args:
        running: says how many requests there are.
        ending: is told of each signal, and whether it is the second one.
    """

    def on_signal(signum: signal.Signals) -> None:
        if not server.should_exit:
            logger.info(
                "%s: draining %d requests for up to %d s; once more stops at once.",
                signum.name,
                running(),
                server.drain_s,
            )
            server.should_exit = True
            ending(False)
        else:
            logger.info("%s again: stopping at once.", signum.name)
            server.force_exit = True
            ending(True)

    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, partial(on_signal, signum))
