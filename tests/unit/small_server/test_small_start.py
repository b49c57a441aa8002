"""The small server as a process: it serves, drains, tells cut-off clients, and needs no vLLM."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from conf_server.server_process import ServerProcess
from conf_server.settings import SettingsError
from conf_server.small_server.server_options import parse_options
from conf_server.small_server.small_start import bound_socket

COMMAND = (sys.executable, "-m", "tests.unit.small_server.dummy_server")


@pytest.fixture
def server(tmp_path: Path, model_path: Path) -> Iterator[ServerProcess]:
    flags = [str(model_path), "--served-model-name", "smol", "--shutdown-timeout", "2"]
    with ServerProcess(flags, tmp_path / "log", command=COMMAND) as server:
        yield server


def stream(server: ServerProcess, words: int) -> Any:
    """An open response."""
    body = {"prompt": str(words), "stream": True}
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(
        f"{server.url}/v1/completions", json.dumps(body).encode(), headers
    )
    return urllib.request.urlopen(request, timeout=20)


@pytest.mark.parametrize(("words", "complete"), [(8, True), (60, False)])
def test_a_stop_finishes_what_it_can_and_tells_the_others(
    server: ServerProcess, words: int, complete: bool
) -> None:
    with stream(server, words) as response:
        assert response.readline().startswith(b"data: {")
        server.terminate()
        rest = response.read()
    assert rest.endswith(b"data: [DONE]\n\n") == complete
    assert (b'"code":503' in rest) != complete
    assert server.process.wait(20) == 0
    log = server.log.read_text()
    assert "SIGTERM: draining 1 requests for up to 2 s" in log
    assert "closed" in log
    assert "for machines without vLLM, whose engine is faster" in log


def test_a_port_that_is_taken_is_a_wrong_flag() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        options = parse_options(["m", "--host=127.0.0.1", f"--port={port}"], {})
        with pytest.raises(SettingsError, match=f"--port: cannot listen on 127.0.0.1:{port}"):
            bound_socket(options)


def test_neither_flags_nor_start_load_vllm() -> None:
    code = (
        "import sys\n"
        "from conf_server import cli\n"
        "from conf_server.small_server import small_start, server_options\n"
        "assert cli.main(['--backend', 'transformers', 'm', '--tensor-parallel-size=2']) == 2\n"
        "print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "vllm" not in done.stdout.split()
    (line,) = done.stderr.splitlines()
    problem = "--tensor-parallel-size: not available with --backend transformers"
    assert line == f"conf-server: error: {problem}"
