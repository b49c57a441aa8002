"""A `conf-server` process for tests, with the clients that they ask it with."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal

import httpx
import openai

from conf_server.server_process import ServerProcess
from tests.devices import FLOAT32_PRODUCTS, HAS_CUDA, SMALL_SHARE

START_TIMEOUT_S = 240
# A small cache is enough for every test. Its size is absolute: a share of the memory has to hold
# the model's process as well, and may be too little for that on the test machine.
MEMORY_FLAGS = ("--kv-cache-memory-bytes=1G",)
# What conf-server does by itself on a CPU: numbers are held against transformers in float32.
CUDA_FLAGS = (
    ("--dtype=float32", "--enforce-eager", f"--gpu-memory-utilization={SMALL_SHARE}")
    if HAS_CUDA
    else ()
)

Kind = Literal["vllm", "transformers"]
KIND_FLAGS: Final[Mapping[Kind, Sequence[str]]] = {
    "vllm": (*MEMORY_FLAGS, *CUDA_FLAGS),
    "transformers": ("--backend=transformers", "--dtype=float32", "--device=cpu"),
}
"""What every server of a kind is started with, by what runs its model."""

READ: Final[Mapping[Kind, Sequence[str]]] = {
    "vllm": ("vllm:prompt_tokens_total",),
    "transformers": ("conf_server_prompt_tokens_total", "conf_server_scored_tokens_total"),
}
UNFINISHED: Final[Mapping[Kind, Sequence[str]]] = {
    "vllm": ("vllm:num_requests_running", "vllm:num_requests_waiting"),
    "transformers": ("conf_server_requests_running",),
}


class Server(ServerProcess):
    """Starts on entry, answers when entry returns, and is gone on exit.

    Attributes:
        kind: what runs its model.
    """

    def __init__(
        self,
        model: Path,
        flags: Sequence[str],
        log: Path,
        *,
        kind: Kind = "vllm",
        api_key: str = "none",
        environ: Mapping[str, str] | None = None,
        module: Sequence[str] = ("conf_server",),
    ) -> None:
        super().__init__(
            [f"--model={model}", *KIND_FLAGS[kind], *flags],
            log,
            command=[sys.executable, "-m", *module],
            environ={**os.environ, **FLOAT32_PRODUCTS, **(environ or {})},
        )
        self.kind = kind
        self.api_key = api_key

    def wait_until_healthy(self, timeout_s: float | None = START_TIMEOUT_S) -> None:
        super().wait_until_healthy(timeout_s)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End the server at once; the tests of a draining stop send their signals themselves."""
        self.kill()

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

    def tokens_read(self) -> float:
        """Tokens of prompts, and of texts that were scored, since the server's start."""
        return sum(map(self.metric, READ[self.kind]))

    def unfinished(self) -> float:
        """What there is still to do. With vLLM, one request may be several pieces of work."""
        return sum(map(self.metric, UNFINISHED[self.kind]))

    def metric(self, name: str) -> float:
        """Sum of a Prometheus metric over its labels."""
        text = httpx.get(f"{self.url}/metrics", timeout=30).text
        values = [
            float(line.rsplit(" ", 1)[1])
            for line in text.splitlines()
            if line.split("{")[0].split(" ")[0] == name
        ]
        return sum(values)
