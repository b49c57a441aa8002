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
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiohttp

from conf_server.batch.options import BatchOptions, StopRunError

SERVER: Final = (sys.executable, "-m", "conf_server")
STOP_S: Final = 40.0
"""SIGTERM to SIGKILL: more than the server's own --shutdown-timeout."""

POLL_S: Final = 0.5
LAST_WORDS_S: Final = 1.0
LOG_TAIL: Final = 2000
PR_SET_PDEATHSIG: Final = 1


@dataclass(frozen=True)
class OwnServer:
    """Our own server.

    Attributes:
        log: what it has said.
    """

    process: asyncio.subprocess.Process
    log: Path

    async def outlive(self, work: Coroutine[Any, Any, None]) -> None:
        """Do what needs the server.

        Raises:
            StopRunError: it has ended, which ends the work.
        """
        task, ended = asyncio.create_task(work), asyncio.create_task(self.process.wait())
        try:
            await asyncio.wait({task, ended}, return_when=asyncio.FIRST_COMPLETED)
            in_vain = not task.done() or isinstance(task.exception(), StopRunError)
            if in_vain:
                # A connection may break before the end of the process is known.
                await asyncio.wait({ended}, timeout=LAST_WORDS_S)
            if in_vain and ended.done():
                raise self.ended()
            await task
        finally:
            for one in (task, ended):
                one.cancel()
            await asyncio.gather(task, ended, return_exceptions=True)

    def ended(self) -> StopRunError:
        tail = self.log.read_text(errors="replace")[-LOG_TAIL:].strip()
        return StopRunError(
            f"the server ended with status {self.process.returncode}: {self.log}\n{tail}"
        )


async def with_server(
    options: BatchOptions, work: Callable[[str], Coroutine[Any, Any, None]]
) -> None:
    """Do what needs a server's URL: the one that was named, or one of our own, gone afterwards.

    Raises:
        StopRunError: ours ended before the work did.
    """
    if options.url is not None:
        await work(options.url)
        return
    port = _free_port()
    handle, log = tempfile.mkstemp(prefix="conf-server-", suffix=".log")
    command = f"conf-server {options.endpoint.command}"
    print(f"{command}: starting {options.model}; its log is {log}", file=sys.stderr)
    own = OwnServer(await _start(options, port, handle), Path(log))

    async def once_healthy() -> None:
        url = f"http://127.0.0.1:{port}"
        await _wait_until_healthy(url)
        print(f"{command}: {options.model} is ready", file=sys.stderr)
        await work(url)

    try:
        await own.outlive(once_healthy())
    finally:
        await _stop(own.process)


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


async def _wait_until_healthy(url: str) -> None:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(5)) as session:
        while True:
            with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                async with session.get(f"{url}/health") as response:
                    if response.status == 200:
                        return
            await asyncio.sleep(POLL_S)


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
