"""ServerProcess: starting, waiting and stopping, with small servers that need no engine."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from conf_server import server_process
from conf_server.server_process import ServerProcess, ServerProcessError

SMALL_SERVER = """
import http.server, os, signal, subprocess, sys
print("flags", *sys.argv[1:], flush=True)
if "--broken" in sys.argv:
    sys.exit("no such model")
if "--stubborn" in sys.argv:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen(["sleep", "1000"])
print("child", child.pid, flush=True)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(503 if "--ill" in sys.argv else 200)
        self.send_header("Content-Length", "0")
        self.end_headers()
(port,) = (word.removeprefix("--port=") for word in sys.argv if word.startswith("--port="))
http.server.HTTPServer(("127.0.0.1", int(port)), Handler).serve_forever()
"""


@pytest.fixture(autouse=True)
def quick_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_process, "POLL_S", 0.02)


def small_server(folder: Path, *flags: str) -> ServerProcess:
    return ServerProcess(flags, folder / "log", command=(sys.executable, "-c", SMALL_SERVER))


def child_of(server: ServerProcess) -> int:
    (line,) = (line for line in server.log.read_text().splitlines() if line.startswith("child"))
    return int(line.split()[1])


def is_running(pid: int) -> bool:
    """Whether a process is there that has not ended; nobody may have reaped one that has."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def until_gone(pid: int) -> None:
    deadline = time.monotonic() + 60
    while is_running(pid):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_it_answers_inside_the_context_and_is_gone_after_it(tmp_path: Path) -> None:
    with small_server(tmp_path, "--model=m") as server:
        assert urllib.request.urlopen(f"{server.url}/health").status == 200
        assert f"flags --model=m --host=127.0.0.1 --port={server.port}" in server.log_tail()
        child = child_of(server)
        assert is_running(child)
    assert server.process.returncode == -signal.SIGTERM
    until_gone(child)


def test_coroutines_wait_as_threads_do(tmp_path: Path) -> None:
    async def run() -> ServerProcess:
        server = small_server(tmp_path).start()
        await server.async_wait_until_healthy()
        assert await asyncio.to_thread(server.is_healthy)
        await server.async_stop()
        return server

    server = asyncio.run(run())
    assert server.process.returncode == -signal.SIGTERM
    until_gone(child_of(server))


@pytest.mark.parametrize("as_coroutine", [False, True])
def test_one_that_ignores_sigterm_is_killed(tmp_path: Path, as_coroutine: bool) -> None:
    server = small_server(tmp_path, "--stubborn").start()
    server.wait_until_healthy()
    if as_coroutine:
        asyncio.run(server.async_stop(patience_s=0.1))
    else:
        server.stop(patience_s=0.1)
    assert server.process.returncode == -signal.SIGKILL
    until_gone(child_of(server))


def test_one_that_ends_instead_of_starting_says_why(tmp_path: Path) -> None:
    message = r"ended with status 1: .*log\nflags .*\nno such model"
    with pytest.raises(ServerProcessError, match=message), small_server(tmp_path, "--broken"):
        pass
    server = small_server(tmp_path, "--broken").start()
    with pytest.raises(ServerProcessError, match=message):
        asyncio.run(server.async_wait_until_healthy())


def test_waiting_has_an_end(tmp_path: Path) -> None:
    server = small_server(tmp_path, "--ill").start()
    with pytest.raises(ServerProcessError, match="not healthy yet"):
        server.wait_until_healthy(timeout_s=1)
    assert server.process.poll() is None
    server.kill()
