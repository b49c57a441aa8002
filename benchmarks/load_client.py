"""The client, which sends requests and measures their time, bytes and CPU time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

import aiohttp

from benchmarks.servers import Server, ServerError

# vLLM's workers poll for a second after their last step; a core that polls is not idle.
QUIET_S = 1.2
# What a server does after its last byte, such as freeing the request, is part of the request.
AFTERMATH_S = 0.05


@dataclass(frozen=True)
class Sample:
    """One timed batch of requests to one server.

    Attributes:
        seconds: from the first request to the last answer.
        cpu_seconds: CPU time of the server's processes by role.
        tokens: how many tokens the batch generated, or scored with their contexts.
        items: how many answers or scored texts it has.
        received: bytes of all answers.
    """

    seconds: float
    cpu_seconds: dict[str, float]
    tokens: int
    items: int
    received: int

    def cpu_us_per_token(self, role: str) -> float:
        return self.cpu_seconds.get(role, 0.0) / self.tokens * 1e6

    def api_ms_per_item(self) -> float:
        return self.cpu_seconds.get("api", 0.0) / self.items * 1e3

    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds

    def bytes_per_item(self) -> float:
        return self.received / self.items


Label = tuple[str, ...]
# The samples of each method, one for each round. The n-th of all methods belong to one round.
Results = dict[Label, list[Sample]]


class Client:
    """Keeps its connections open, so that answers are measured and not handshakes."""

    async def __aenter__(self) -> Client:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=None),
            headers={"Content-Type": "application/json"},
            read_bufsize=2**20,
        )
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._session.close()

    async def send(
        self, server: Server, path: str, bodies: Sequence[bytes], concurrency: int
    ) -> list[bytes]:
        """Post the bodies, at most `concurrency` at a time, and return the answers' bytes.

        Raises:
            ServerError: an answer's status is not 200, or a connection broke.
        """
        gate = asyncio.Semaphore(concurrency)

        async def post(body: bytes) -> bytes:
            async with gate, self._session.post(server.url + path, data=body) as response:
                answer = await response.read()
                if response.status != 200:
                    raise ServerError(f"{server.kind} {path}: {response.status} {answer[:500]!r}")
                return answer

        try:
            return await asyncio.gather(*map(post, bodies))
        except aiohttp.ClientError as error:
            raise ServerError(f"{server.kind} {path}: {error!r}\n{server.log_tail()}") from error

    async def measure(
        self,
        server: Server,
        path: str,
        bodies: Sequence[bytes],
        *,
        concurrency: int,
        tokens: int,
        items: int,
    ) -> tuple[Sample, list[bytes]]:
        """Time the bodies after a pause in which the servers come to rest."""
        await asyncio.sleep(QUIET_S)
        before, start = server.cpu_seconds(), time.perf_counter()
        answers = await self.send(server, path, bodies, concurrency)
        seconds, after = time.perf_counter() - start, server.cpu_seconds()
        await asyncio.sleep(AFTERMATH_S)
        after["api"] = server.cpu_seconds()["api"]
        cpu = {role: after[role] - before[role] for role in after}
        return Sample(seconds, cpu, tokens, items, sum(map(len, answers))), answers
