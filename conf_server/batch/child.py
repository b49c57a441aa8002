"""A conf-server for the time of one run."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import aiohttp

from conf_server.batch.client import StopRunError
from conf_server.batch.options import BatchOptions

SERVER: Final = (sys.executable, "-m", "conf_server")
STOP_S: Final = 40.0
"""SIGTERM to SIGKILL: more than the server's own --shutdown-timeout."""

POLL_S: Final = 0.5
LOG_TAIL: Final = 2000
PR_SET_PDEATHSIG: Final = 1


@asynccontextmanager
async def serving(options: BatchOptions) -> AsyncIterator[str]:
    """The URL of a server: the one that was named, or one of our own, gone on exit.

    Raises:
        StopRunError: ours ended before it was healthy.
    """
    if options.url is not None:
        yield options.url
        return
    port = _free_port()
    handle, log = tempfile.mkstemp(prefix="conf-server-", suffix=".log")
    command = f"conf-server {options.endpoint.command}"
    print(f"{command}: starting {options.model}; its log is {log}", file=sys.stderr)
    process = await _start(options, port, handle)
    try:
        url = f"http://127.0.0.1:{port}"
        await _wait_until_healthy(url, process, Path(log))
        print(f"{command}: {options.model} is ready", file=sys.stderr)
        yield url
    finally:
        await _stop(process)


async def _start(options: BatchOptions, port: int, log: int) -> asyncio.subprocess.Process:
    """In a session of its own: Ctrl-C is for us, and we stop it when we are done with it."""
    try:
        return await asyncio.create_subprocess_exec(
            *SERVER,
            *("--model", str(options.model), "--port", str(port), "--host", "127.0.0.1"),
            *options.server_flags,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=_end_with_parent,
        )
    finally:
        os.close(log)


def _end_with_parent() -> None:
    """SIGTERM when we die, even of a SIGKILL (Linux)."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


async def _wait_until_healthy(url: str, process: asyncio.subprocess.Process, log: Path) -> None:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(5)) as session:
        while process.returncode is None:
            with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                async with session.get(f"{url}/health") as response:
                    if response.status == 200:
                        return
            await asyncio.sleep(POLL_S)
    tail = log.read_text(errors="replace")[-LOG_TAIL:].strip()
    raise StopRunError(f"the server ended with status {process.returncode}: {log}\n{tail}")


async def _stop(process: asyncio.subprocess.Process) -> None:
    """SIGTERM, and SIGKILL to all of its processes where that takes too long."""
    try:
        if process.returncode is None:
            process.terminate()
            await asyncio.wait_for(process.wait(), STOP_S)
    except TimeoutError:
        pass
    finally:
        # Engines that outlive their server, too.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    await process.wait()
