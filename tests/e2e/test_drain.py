"""The end of a drain: requests that are cut off hear it, and the log says how many there were.

And what else ends or stops a server without its consent: a killed API process, a hung engine.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil

from tests.processes import until
from tests.server import Server

LONG: dict[str, Any] = {"max_tokens": 900, "ignore_eos": True}
CHAT = LONG | {"messages": [{"role": "user", "content": "Count to one hundred."}]}
WHOLE: dict[str, Any] = {
    "/v1/chat/completions": CHAT | {"n": 8},
    "/v1/completions": LONG | {"prompt": "One, two,", "n": 8},
    "/v1/uncertainty": CHAT,
    "/v1/think/chat/completions": CHAT,
    "/v1/score": {"items": [{"prompt": [n] * 900, "completion": [5] * 90} for n in range(60)]},
}
STREAMS = {path: WHOLE[path] | {"stream": True} for path in WHOLE if path != "/v1/score"}


async def test_requests_that_outlast_a_drain_hear_it(model_path: Path, tmp_path: Path) -> None:
    """Whatever was asked for: an answer, a stream, scores, estimates."""
    flags = ["--max-model-len=1024", "--shutdown-timeout=2"]
    with Server(model_path, flags, tmp_path / "log") as server:
        async with httpx.AsyncClient(base_url=server.url, timeout=120) as client:
            requests = [
                asyncio.create_task(client.post(path, json=body))
                for bodies in (WHOLE, STREAMS)
                for path, body in bodies.items()
            ]
            count = len(requests)
            await asyncio.to_thread(until, lambda: server.unfinished() > count)
            server.terminate()
            answers = await asyncio.gather(*requests)
        assert await asyncio.to_thread(server.process.wait, 60) == 0
    for answer in answers[: len(WHOLE)]:
        assert answer.status_code == answer.json()["error"]["code"] == 503
        assert int(answer.headers["retry-after"]) > 0
    for answer in answers[len(WHOLE) :]:
        assert answer.status_code == 200
        last = answer.text.strip().rpartition("\n")[2]
        assert last.startswith('data: {"error":{"message":"The server is stopping')
    log = server.log.read_text(errors="replace")
    assert f"Stopping: {count} requests are cut off" in log
    assert "Traceback" not in log


def processes(server: Server, name: str) -> list[psutil.Process]:
    """Those whose name, as vLLM has set it, begins so."""
    children = psutil.Process(server.process.pid).children(recursive=True)
    return [child for child in children if name in " ".join([child.name(), *child.cmdline()])]


def started(server: Server) -> int:
    """API processes that answer."""
    return server.log.read_text(errors="replace").count("Application startup complete")


async def test_where_one_api_process_dies_the_others_drain(
    model_path: Path, tmp_path: Path
) -> None:
    flags = ["--max-model-len=1024", "--shutdown-timeout=3", "--api-server-count=2"]
    with Server(model_path, flags, tmp_path / "log") as server:
        async with httpx.AsyncClient(base_url=server.url, timeout=120) as client:
            # Then a process takes a connection where it has fewer than the other.
            await asyncio.to_thread(until, lambda: started(server) == 2)
            requests = [
                asyncio.create_task(client.post("/v1/completions", json=LONG | {"prompt": "One,"}))
                for _ in range(8)
            ]
            await asyncio.to_thread(until, lambda: server.unfinished() >= 8)
            first, *_ = processes(server, "APIServer")
            first.kill()
            answers = await asyncio.gather(*requests, return_exceptions=True)
        assert await asyncio.to_thread(server.process.wait, 60) == 1
    broken = [answer for answer in answers if isinstance(answer, httpx.TransportError)]
    heard = [answer for answer in answers if isinstance(answer, httpx.Response)]
    assert broken
    assert heard
    assert {answer.status_code for answer in heard} == {503}


def test_a_hung_engine_is_not_ready_and_lives(model_path: Path, tmp_path: Path) -> None:
    flags = ["--max-model-len=1024", "--max-engine-silence=1"]
    with Server(model_path, flags, tmp_path / "log") as server, ThreadPoolExecutor(1) as pool:

        def status(path: str) -> int:
            return httpx.get(f"{server.url}{path}").status_code

        assert status("/ready") == 200
        (engine,) = processes(server, "EngineCore")
        engine.suspend()
        asked = pool.submit(server.post, "/v1/completions", {"prompt": "One,", "max_tokens": 2})
        until(lambda: status("/ready") == 503)
        assert status("/health") == 200
        engine.resume()
        assert asked.result().status_code == 200
        assert status("/ready") == 200
