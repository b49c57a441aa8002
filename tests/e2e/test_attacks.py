"""What one client sends to knock a server over: it hears why not, and nothing is left of it.

`python -m benchmarks.attacks` sends the same, and measures how others fare meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import httpx
import psutil
import pytest

from benchmarks import attack_requests
from benchmarks.attack_requests import Attack
from tests.processes import until
from tests.server import Server

pytestmark = pytest.mark.only_vllm("an engine in a process of its own")

MB = 1e6


@pytest.mark.parametrize(
    "make",
    [
        attack_requests.unserializable,
        attack_requests.large_bodies,
        attack_requests.long_prompts,
        attack_requests.large_answers,
        attack_requests.repeated_metrics,
        attack_requests.many_mistakes,
        attack_requests.leaving,
        attack_requests.echoes,
    ],
)
async def test_nothing_is_left_of_an_attack(server: Server, make: Callable[[], Attack]) -> None:
    attack, api = make(), psutil.Process(server.process.pid)
    logged, memory = len(server.log.read_bytes()), api.memory_info().rss
    headers = {"Authorization": f"Bearer {server.api_key}", "Content-Type": "application/json"}
    async with httpx.AsyncClient(base_url=server.url, headers=headers) as client:

        async def send(path: str, body: bytes) -> None:
            if attack.leave_s is not None:
                sent = asyncio.create_task(client.post(path, content=body, timeout=300))
                await asyncio.wait({sent}, timeout=attack.leave_s)
                assert sent.cancel(), "the work was no longer than the client stayed"
                return
            answer = await client.post(path, content=body, timeout=300)
            assert answer.status_code in attack.statuses, answer.text[:500]
            if answer.status_code >= 400:
                assert answer.json()["error"]["message"]
                assert len(answer.content) < 10_000

        await asyncio.gather(*(send(*request) for request in attack.requests))
    await asyncio.to_thread(until, lambda: server.unfinished() == 0)
    assert httpx.get(f"{server.url}/ready").json() == {"ready": True}
    assert api.memory_info().rss - memory < 300 * MB
    assert b"Traceback" not in server.log.read_bytes()[logged:]
