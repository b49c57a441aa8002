"""A `conf-server` process for tests."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx
import openai

START_TIMEOUT_S = 240
# Several servers share the test machine: a small cache is enough for every test.
MEMORY_FLAGS = ("--gpu-memory-utilization=0.1",)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


class Server:
    """Starts on entry, answers when entry returns, is gone on exit."""

    def __init__(
        self,
        model: Path,
        flags: Sequence[str],
        log: Path,
        *,
        api_key: str = "none",
        environ: Mapping[str, str] | None = None,
        module: Sequence[str] = ("conf_server",),
    ) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.api_key = api_key
        self.log = log
        self._environ = {**os.environ, **(environ or {})}
        self._command = [
            sys.executable,
            "-m",
            *module,
            f"--model={model}",
            "--host=127.0.0.1",
            f"--port={self.port}",
            *MEMORY_FLAGS,
            *flags,
        ]

    def start(self) -> Server:
        self.process = subprocess.Popen(
            self._command,
            stdout=self.log.open("wb"),
            stderr=subprocess.STDOUT,
            env=self._environ,
            start_new_session=True,
        )
        return self

    def wait_until_healthy(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                break
            try:
                if self._health() == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.5)
        raise RuntimeError(f"the server did not start:\n{self.log.read_text()[-5000:]}")

    def _health(self) -> int:
        return httpx.get(f"{self.url}/health", timeout=5).status_code

    def __enter__(self) -> Server:
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
        self.kill()

    def terminate(self) -> None:
        """SIGTERM to the main process only, as a service manager sends it."""
        self.process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End the whole process group."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(timeout=30)

    def client(self, **options: Any) -> openai.OpenAI:
        return openai.OpenAI(
            base_url=f"{self.url}/v1", api_key=self.api_key, max_retries=0, timeout=300, **options
        )

    def async_client(self) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(
            base_url=f"{self.url}/v1", api_key=self.api_key, max_retries=0, timeout=300
        )

    def http(self) -> httpx.Client:
        return httpx.Client(
            base_url=self.url,
            headers={"Authorization": f"Bearer {self.api_key}"},
            timeout=300,
        )

    def post(self, path: str, body: Any) -> httpx.Response:
        # httpx would write the characters themselves: half of a surrogate pair has no bytes.
        content, headers = json.dumps(body), {"content-type": "application/json"}
        with self.http() as http:
            return http.post(path, content=content, headers=headers)

    def metric(self, name: str) -> float:
        """Sum of a Prometheus metric over its labels."""
        text = httpx.get(f"{self.url}/metrics", timeout=30).text
        values = [
            float(line.rsplit(" ", 1)[1])
            for line in text.splitlines()
            if line.split("{")[0].split(" ")[0] == name
        ]
        return sum(values)
