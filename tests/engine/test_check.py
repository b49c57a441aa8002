"""conf-server check on a real engine: right against the same weights, wrong against others."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

CHECK_S = 500  # 45 on two idle cores
FLAGS = ("--max-model-len=1024", "--gpu-memory-utilization=0.1")
DAMAGED = "model.layers.15.mlp.down_proj.weight"


def check(model: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "conf_server", "check", f"--model={model}", *FLAGS, *flags],
        capture_output=True,
        text=True,
        timeout=CHECK_S,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )


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
    done = check(model_path, "--json")
    assert done.returncode == 0, done.stderr[-4000:]
    answer: dict[str, Any] = json.loads(done.stdout)  # one object, and no log
    assert (answer["ok"], answer["dtype"], answer["failures"]) == (True, "float32", [])
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
        assert line["agreement"] == 1.0
    assert "transformers: 100%" in done.stderr


def test_other_weights_are_caught_in_every_kind_of_row(model_path: Path, damaged: Path) -> None:
    done = check(model_path, f"--reference={damaged}", "--new-tokens=16")
    assert done.returncode == 1, done.stderr[-4000:]
    assert done.stdout.startswith(f"engine {model_path} against transformers float32 {damaged}\n")
    _, _, verdict = done.stdout.partition("FAIL: ")
    for failure in ("chat/prompt", "prose/cached", "chat/generated", "chat/batched"):
        assert f"\n  {failure}: mean " in verdict


def test_a_model_that_is_not_there_is_bad_usage(tmp_path: Path) -> None:
    done = check(tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"conf-server check: error: no tokenizer in {tmp_path}" in done.stderr
