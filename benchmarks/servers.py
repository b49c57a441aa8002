"""The servers that are compared, and the CPU time that their processes take."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[1]
CONF, STOCK, OLD = "conf-server", "stock vLLM", "old plugin"
MODULES = {
    CONF: "conf_server",
    STOCK: "vllm.entrypoints.openai.api_server",
    OLD: "benchmarks.old_plugin_server",
}
MODEL_NAME = "bench"
START_TIMEOUT_S = 600
STOP_TIMEOUT_S = 15
FIRST_PORT = 8700
PROCESSES = ("api", "engine", "worker")


class ServerError(RuntimeError):
    """A server did not start, died, or refused a request."""


class Server:
    """One server process with its engine and workers, from start() to stop()."""

    def __init__(self, kind: str, model: str, port: int, flags: Sequence[str], log: Path) -> None:
        self.kind = kind
        self.url = f"http://127.0.0.1:{port}"
        self.log = log
        self._processes: dict[str, list[int]] = {}
        self._command = [sys.executable, "-m", MODULES[kind]]
        self._command += [f"--model={model}", f"--served-model-name={MODEL_NAME}"]
        self._command += ["--host=127.0.0.1", f"--port={port}", *flags]

    def start(self) -> None:
        # The defaults are compared, whatever the shell that runs us has set.
        environ = {k: v for k, v in os.environ.items() if not k.startswith("VLLM_CONF_")}
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                self._command,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environ,
                cwd=ROOT,
                start_new_session=True,
            )

    def wait_until_healthy(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline and self._process.poll() is None:
            if self._healthy():
                self._processes = _by_role(self._process.pid)
                return
            time.sleep(0.5)
        raise ServerError(f"{self.kind} did not start.\n{self.log_tail()}")

    def _healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=5) as answer:
                return answer.status == 200
        except (urllib.error.URLError, OSError):
            return False

    def log_tail(self, lines: int = 30) -> str:
        """For error messages: what was run, and how it ended."""
        tail = self.log.read_text(errors="replace").splitlines()[-lines:]
        return "\n".join([f"$ {' '.join(self._command)}", *tail, f"(all of it: {self.log})"])

    def cpu_seconds(self) -> dict[str, float]:
        """CPU time of each role's processes since they started, all threads."""
        try:
            return {
                role: sum(process_cpu_seconds(pid) for pid in pids)
                for role, pids in self._processes.items()
            }
        except OSError as error:
            raise ServerError(f"{self.kind} lost a process.\n{self.log_tail()}") from error

    def stop(self) -> None:
        """Ask the server to end; kill() makes sure."""
        self._signal(signal.SIGTERM)

    def kill(self, patience_s: float) -> None:
        """End what is left of the process group after some seconds."""
        try:
            self._process.wait(timeout=patience_s)
        except subprocess.TimeoutExpired:
            pass
        finally:  # an impatient Ctrl-C included
            self._signal(signal.SIGKILL)
            self._process.wait()

    def _signal(self, signum: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signum)


def process_cpu_seconds(pid: int) -> float:
    """CPU time of another process, user and system, threads that have ended included.

    /proc/PID/stat says the same in ticks of 10 ms, which is a tenth of what a cheap
    sample costs. POSIX has a clock for each process (see clock_getcpuclockid(3), which
    Python does not wrap), and Linux counts nanoseconds there.
    """
    return time.clock_gettime((~pid << 3) | 2)


def _by_role(pid: int) -> dict[str, list[int]]:
    """Process ids by role; vLLM names its children `VLLM::EngineCore`, `VLLM::Worker` and, with
    --api-server-count, `VLLM::APIServer`."""
    roles: dict[str, list[int]] = {"api": [pid], "engine": [], "worker": []}
    for child in psutil.Process(pid).children(recursive=True):
        name = child.name()
        if "EngineCore" in name:
            roles["engine"].append(child.pid)
        elif "Worker" in name:
            roles["worker"].append(child.pid)
        elif "APIServer" in name:
            roles["api"].append(child.pid)
    return roles


@contextlib.contextmanager
def running(
    kinds: Sequence[str], model: str, flags: Sequence[str], logs: Path
) -> Iterator[dict[str, Server]]:
    """Servers of these kinds, all of them up at the same time."""
    logs.mkdir(parents=True, exist_ok=True)
    servers: dict[str, Server] = {}
    # On a GPU each measures what memory is free while it starts: one after the other there.
    together = shutil.which("nvidia-smi") is None
    try:
        for kind in kinds:
            log = logs / f"{kind.replace(' ', '-')}.log"
            servers[kind] = Server(kind, model, _free_port(), flags, log)
            servers[kind].start()
            if not together:
                servers[kind].wait_until_healthy()
        for server in servers.values():
            server.wait_until_healthy()
        yield servers
    finally:
        for server in servers.values():
            server.stop()
        with contextlib.ExitStack() as all_of_them:
            for server in servers.values():
                all_of_them.callback(server.kill, STOP_TIMEOUT_S)


_used_ports: set[int] = set()


def _free_port() -> int:
    for port in range(FIRST_PORT, FIRST_PORT + 100):
        with socket.socket() as sock, contextlib.suppress(OSError):
            if port not in _used_ports:
                sock.bind(("127.0.0.1", port))
                _used_ports.add(port)
                return port
    raise ServerError(f"no free port from {FIRST_PORT} to {FIRST_PORT + 99}")
