"""Scorers without a process and without a model, for what needs neither."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from conf_server.backends.base import Caller, ForcingJob
from conf_server.backends.dummy import DummyBackend
from conf_server.scorer.connections import Connections, Move
from conf_server.scorer.scorer_backend import ScorerBackend
from conf_server.scorer.wire import Hello
from conf_server.stats.forced import ForcedRows, WantedRows


@dataclass
class WaitingBackend(DummyBackend):
    """Forces texts when it is allowed to, and notes whose work has ended without that."""

    go: asyncio.Event = field(default_factory=asyncio.Event)
    begun: list[str] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)

    async def force(
        self, jobs: Sequence[ForcingJob], wanted: WantedRows, caller: Caller
    ) -> list[ForcedRows]:
        self.begun.append(caller.request_id)
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled.append(caller.request_id)
            raise
        return await super().force(jobs, wanted, caller)


@asynccontextmanager
async def listening(
    backend: DummyBackend, path: Path, max_queue: int = 10, move: Move | None = None
) -> AsyncIterator[ScorerBackend]:
    """A client of a backend that answers in this process, over a socket all the same."""
    hello = Hello(backend.limits(), "dummy")
    server = await Connections(backend, hello, max_queue, move).listen(str(path))
    client = ScorerBackend(str(path), hello)
    try:
        yield client
    finally:
        await client.close()
        server.close()
        await server.wait_closed()
