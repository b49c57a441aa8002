"""Starts a server in a process of its own, waits until it answers, and stops it.

The batch commands, the tests and the benchmarks all start their servers with this class:

    with ServerProcess(["--model", "/models/llama"], log=Path("server.log")) as server:
        urllib.request.urlopen(f"{server.url}/v1/models")

Every method that waits has a twin for coroutines, whose name begins with `async_`.
The module imports the standard library only, so that a client without vLLM can use it.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

CONF_SERVER: Final = (sys.executable, "-m", "conf_server")
"""The command that starts conf-server with the Python that runs this code."""

HOST: Final = "127.0.0.1"

STOP_S: Final = 40.0
"""Seconds from SIGTERM to SIGKILL. This is more than the server's own --shutdown-timeout."""

POLL_S: Final = 0.2
"""Seconds between two looks at a server that is starting or ending."""

HEALTH_TIMEOUT_S: Final = 5.0
LOG_TAIL: Final = 2000
"""How many characters of the log an error message repeats."""

PR_SET_PDEATHSIG: Final = 1
"""The number of `prctl`'s option in <sys/prctl.h>."""


class ServerProcessError(RuntimeError):
    """The server ended or did not become healthy in time. The message has its log's end."""


class ServerProcess:
    """One server with its engine and workers, from `start` to `stop`.

    The server leads a session of its own, so Ctrl-C in the caller's terminal does not reach it.
    On Linux it gets a SIGTERM when the thread that called `start` ends, even where the caller was
    killed: start it from a thread that lives as long as the server is wanted.

    Attributes:
        command: the program and all its arguments.
        port: the port that it listens on, on the loopback interface.
        url: its address, without a slash at the end.
        log: the file that its standard output and standard error go to.
        process: the server's main process; there is none before `start`.
    """

    process: subprocess.Popen[bytes]

    def __init__(
        self,
        flags: Sequence[str],
        log: Path,
        *,
        command: Sequence[str] = CONF_SERVER,
        port: int | None = None,
        environ: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        """
        Args:
            flags: the server's arguments, without --host and --port.
            log: written anew by every `start`.
            command: the words before the flags. Any server with a route /health will do.
            port: where to listen; None takes a free port.
            environ: the server's whole environment; None passes on the caller's.
            cwd: the server's working directory; None passes on the caller's.
        """
        self.port = free_port() if port is None else port
        self.url = f"http://{HOST}:{self.port}"
        self.log = log
        self.command = [*command, *flags, f"--host={HOST}", f"--port={self.port}"]
        self._environ = environ
        self._cwd = cwd

    def start(self) -> Self:
        """Start the process and return at once.

        Raises:
            OSError: the log cannot be written, or the program is not there.
        """
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environ,
                cwd=self._cwd,
                start_new_session=True,
                preexec_fn=_end_with_parent,
            )
        return self

    def is_healthy(self) -> bool:
        """Whether /health answers with 200. A subclass may ask in another way."""
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=HEALTH_TIMEOUT_S) as answer:
                return bool(answer.status == 200)
        except OSError:  # URLError and HTTPError are OSErrors, and so is a timeout.
            return False

    def wait_until_healthy(self, timeout_s: float | None = None) -> None:
        """Wait until the server answers.

        Args:
            timeout_s: None waits for as long as the process lives.

        Raises:
            ServerProcessError: the process has ended, or the time is up. It is not stopped then.
        """
        deadline = _deadline(timeout_s)
        while not self._has_started(deadline):
            time.sleep(POLL_S)

    async def async_wait_until_healthy(self, timeout_s: float | None = None) -> None:
        """As `wait_until_healthy`."""
        deadline = _deadline(timeout_s)
        while not await asyncio.to_thread(self._has_started, deadline):
            await asyncio.sleep(POLL_S)

    def _has_started(self, deadline: float) -> bool:
        if self.process.poll() is not None:
            raise self.ended()
        if time.monotonic() > deadline:
            raise ServerProcessError(
                f"the server is not healthy yet: {self.log}\n{self.log_tail()}"
            )
        return self.is_healthy()

    async def async_wait(self) -> int:
        """Wait until the main process ends, and return its exit status."""
        while (status := self.process.poll()) is None:
            await asyncio.sleep(POLL_S)
        return status

    def ended(self) -> ServerProcessError:
        """The error that says how the process ended, and what it said last."""
        return ServerProcessError(
            f"the server ended with status {self.process.returncode}: {self.log}\n{self.log_tail()}"
        )

    def log_tail(self) -> str:
        """The last 2000 characters of the log."""
        return self.log.read_text(errors="replace")[-LOG_TAIL:].strip()

    def terminate(self) -> None:
        """Send SIGTERM to the main process alone, as a service manager does."""
        self.process.terminate()

    def kill(self) -> None:
        """Send SIGKILL to all processes of the server, engines that outlived it included."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def stop(self, patience_s: float = STOP_S) -> None:
        """Terminate the server; kill what is left of it after `patience_s` seconds."""
        try:
            self.terminate()
            self.process.wait(patience_s)
        except subprocess.TimeoutExpired:
            pass
        finally:
            self.kill()

    async def async_stop(self, patience_s: float = STOP_S) -> None:
        """As `stop`. Where it is cancelled, the server is killed at once."""
        try:
            self.terminate()
            await asyncio.wait_for(self.async_wait(), patience_s)
        except TimeoutError:
            pass
        finally:
            self.kill()

    def __enter__(self) -> Self:
        """Start the server and wait until it is healthy."""
        self.start()
        try:
            self.wait_until_healthy()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()


def free_port() -> int:
    """A TCP port of the loopback interface that nobody listened on a moment ago."""
    with socket.socket() as sock:
        sock.bind((HOST, 0))
        port: int = sock.getsockname()[1]
        return port


def _deadline(timeout_s: float | None) -> float:
    return float("inf") if timeout_s is None else time.monotonic() + timeout_s


def end_with(parent: int) -> None:
    """Let Linux kill this process when the thread that has started it ends.

    Args:
        parent: the id of that thread's process. If it has ended already, so does this one.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it has ended before that was asked for
            os._exit(1)


def _end_with_parent() -> None:
    """Ask Linux for a SIGTERM when the parent dies. It runs in the child, before the program."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
