"""conf-server check on a real engine: right against the same weights, wrong against others."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from safetensors.torch import load_file, save_file

from conf_server.stats.columns import NUM_TOKEN_STATISTICS
from tests.server import KIND_FLAGS

CHECK_S = 500  # 45 on two idle cores
STOP_S = 60  # far less than what is left of the check
FLAGS = ("--max-model-len=1024", *KIND_FLAGS["vllm"])
DAMAGED = "model.layers.15.mlp.down_proj.weight"


def check(model: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(model, *flags), capture_output=True, text=True, timeout=CHECK_S, env=environ()
    )


def command(model: Path, *flags: str) -> list[str]:
    return [sys.executable, "-m", "conf_server", "check", f"--model={model}", *FLAGS, *flags]


def environ() -> dict[str, str]:
    return {**os.environ, "HF_HUB_OFFLINE": "1"}


@pytest.fixture(scope="module")
def damaged(model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model with one layer's output doubled."""
    folder = tmp_path_factory.mktemp("damaged")
    shutil.copytree(model_path, folder, dirs_exist_ok=True)
    (weights,) = folder.glob("*.safetensors")
    tensors = load_file(weights)
    tensors[DAMAGED] *= 2
    save_file(tensors, weights, metadata={"format": "pt"})
    return folder


def test_the_embedded_model_passes(model_path: Path) -> None:
    done = check(model_path, "--json", "--enable-hidden-states")
    assert done.returncode == 0, done.stderr[-4000:]
    answer: dict[str, Any] = json.loads(done.stdout)  # one object, and no log
    assert (answer["ok"], answer["dtype"], answer["failures"]) == (True, "float32", [])
    assert (answer["missing"], answer["token_statistics"]) == ([], "engine")
    lines = {(line["text"], line["rows"]): line for line in answer["lines"]}
    texts = {"short", "prose", "scripts", "code", "chat", "border"}
    assert {text for text, _ in lines} == texts
    for rows in ("prompt", "generated", "batched"):
        assert texts == {text for text, kind in lines if kind == rows}
    assert ("prose", "cached") in lines
    assert lines["chat", "prompt"]["num_tokens"] == 36  # of 37: nothing stands before the first
    for line in lines.values():
        assert line["max"] < 1e-3
        assert line["mean"] < 1e-4
        assert abs(line["kl"]) < 1e-4
        assert line["agreement"] >= 0.99
        assert len(line["statistics"]) == NUM_TOKEN_STATISTICS
        for column in line["statistics"].values():
            assert column["max"] < 1e-3
            assert column["mean"] < 1e-4
    inner = {(line["text"], line["rows"]): line for line in answer["inner"]}
    assert {text for text, _ in inner} == texts
    assert ("prose", "cached") in inner
    for line in inner.values():
        assert line["states"] < 1e-4
        assert line["weights"] < 1e-4
    assert "transformers: 100%" in done.stderr


def test_other_weights_are_caught_in_every_kind_of_row(model_path: Path, damaged: Path) -> None:
    flags = (f"--reference={damaged}", "--new-tokens=16", "--enable-hidden-states")
    done = check(model_path, *flags)
    assert done.returncode == 1, done.stderr[-4000:]
    assert done.stdout.startswith(f"engine {model_path} against transformers float32 {damaged}\n")
    _, _, verdict = done.stdout.partition("FAIL: ")
    for failure in ("chat/prompt", "prose/cached", "chat/generated", "chat/batched"):
        assert f"\n  {failure}: mean " in verdict
    # The damaged layer is the 16th: of the layers that are compared, those after it show it.
    assert re.search(r"\n  prose/prompt: .*hidden states of layer (19|22|26|30) ", verdict)


def test_without_prefix_cache_and_statistics_the_rest_is_checked(model_path: Path) -> None:
    done = check(
        model_path, "--new-tokens=2", "--no-enable-prefix-caching", "--token-statistics=topk"
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert "Not compared: prose/cached, scripts/cached: prefix caching is off." in done.stdout
    assert "Not compared: token statistics: this engine computes none" in done.stdout
    assert "\nPASS: 18 comparisons" in done.stdout


def engine_is_starting(_log: str, children: list[psutil.Process]) -> bool:
    return any("EngineCore" in child.name() for child in children)


def engine_is_reading(log: str, _children: list[psutil.Process]) -> bool:
    return "engine:   0%" in log


@pytest.mark.parametrize(
    ("number", "moment"),
    [(signal.SIGINT, engine_is_starting), (signal.SIGTERM, engine_is_reading)],
)
def test_a_signal_ends_the_check_and_its_engine(
    model_path: Path,
    tmp_path: Path,
    number: signal.Signals,
    moment: Callable[[str, list[psutil.Process]], bool],
) -> None:
    log = tmp_path / "log"
    with log.open("wb") as stderr:
        running = subprocess.Popen(
            command(model_path), stdout=subprocess.PIPE, stderr=stderr, env=environ()
        )
    with running:
        children = children_at(running, log, moment)
        running.send_signal(number)
        stdout, _ = running.communicate(timeout=STOP_S)
    assert running.returncode == 128 + number, log.read_text()[-4000:]
    assert stdout == b""
    _, alive = psutil.wait_procs(children, timeout=STOP_S)
    assert not alive


def children_at(
    running: subprocess.Popen[bytes],
    log: Path,
    moment: Callable[[str, list[psutil.Process]], bool],
) -> list[psutil.Process]:
    """Wait for the moment; the check's processes, of which there is one at least, at it."""
    for _ in range(CHECK_S * 10):
        assert running.poll() is None, log.read_text()[-4000:]
        with contextlib.suppress(psutil.NoSuchProcess):
            children = psutil.Process(running.pid).children(recursive=True)
            if children and moment(log.read_text(), children):
                return children
        time.sleep(0.1)
    running.kill()
    raise AssertionError(log.read_text()[-4000:])


def test_a_model_that_is_not_there_is_bad_usage(tmp_path: Path) -> None:
    done = check(tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    reason = f"--model: {tmp_path} holds no model: no config.json in it"
    assert done.stderr == f"conf-server check: error: {reason}\n"
