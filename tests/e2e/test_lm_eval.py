"""lm-eval gets from either server what it gets from transformers itself."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import REPOSITORY
from tests.server import Server

pytest.importorskip(
    "lm_eval", reason="lm-eval is not installed: pip install 'conf-server[lm-eval]'"
)

from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from conf_server.integrations.lm_eval import ConfScore

TASKS = REPOSITORY / "tests" / "lm_eval_tasks"
DOCUMENTS = 8
MAX_LENGTH = 120
"""Of both models: too little for some of the texts, which are read in windows."""

CHAT = {"num_fewshot": 2, "apply_chat_template": True, "fewshot_as_multiturn": True}
FEW_SHOT = {"num_fewshot": 2}

Answers = Callable[..., list[Any]]


def answers(model: Any, task: str, **options: Any) -> list[Any]:
    """What a model has answered to each document of a task, in their order."""
    tasks = TaskManager(include_path=str(TASKS), include_defaults=False)
    found = simple_evaluate(
        model, tasks=[task], task_manager=tasks, bootstrap_iters=0, limit=DOCUMENTS, **options
    )
    samples = sorted(found["samples"][task], key=lambda sample: sample["doc_id"])
    return [sample["resps"] for sample in samples]


@pytest.fixture
def ours(server: Server, monkeypatch: pytest.MonkeyPatch) -> Answers:
    monkeypatch.setenv("VLLM_API_KEY", server.api_key)
    model = ConfScore(base_url=f"{server.url}/v1", max_length=MAX_LENGTH)
    return functools.partial(answers, model)


@pytest.fixture(scope="module")
def theirs(model_path: Path) -> Answers:
    """Those of lm-eval's own model.

    Its logarithm of the softmax is taken in float64. In float32 torch's is 8e-6 a token too high
    on a CPU, which is more than 1e-4 in a text of 20 tokens.
    """
    options = {"dtype": "float32", "softmax_dtype": "float64", "device": "cpu"}
    model = HFLM(str(model_path), max_length=MAX_LENGTH, **options)
    return functools.cache(functools.partial(answers, model))


@pytest.mark.parametrize("options", [{}, FEW_SHOT, CHAT], ids=["bare", "few-shot", "chat"])
def test_choices(ours: Answers, theirs: Answers, options: dict[str, Any]) -> None:
    for found, expected in zip(
        ours("toy_questions", **options), theirs("toy_questions", **options), strict=True
    ):
        assert len(found) == 4
        for ((logprob, is_greedy),), ((their_logprob, their_greedy),) in zip(
            found, expected, strict=True
        ):
            assert logprob == pytest.approx(their_logprob, abs=1e-4)
            assert is_greedy == their_greedy


def test_whole_texts(ours: Answers, theirs: Answers) -> None:
    found = [one for ((one,),) in ours("toy_texts")]
    assert found == pytest.approx([one for ((one,),) in theirs("toy_texts")], abs=3e-4)
    assert found[0] == 0
    assert found[-1] < -100


@pytest.mark.parametrize("options", [FEW_SHOT, CHAT], ids=["few-shot", "chat"])
def test_generated_texts(ours: Answers, theirs: Answers, options: dict[str, Any]) -> None:
    assert ours("toy_answers", **options) == theirs("toy_answers", **options)


def test_the_command_line(server: Server, tmp_path: Path) -> None:
    """lm-eval's own, as docs/lm-eval.md has it."""
    command = [sys.executable, "-m", "conf_server.integrations.lm_eval", "run"]
    command += ["--model=conf-score", "--model_args", f"base_url={server.url}/v1"]
    command += ["--include_path", str(TASKS), "--tasks", "toy_questions", "--limit", "2"]
    environ = {**os.environ, "VLLM_API_KEY": server.api_key, "HF_HUB_OFFLINE": "1"}
    run = subprocess.run(
        [*command, "--output_path", str(tmp_path / "found.json")],
        env=environ,
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert "toy_questions" in run.stdout
    (written,) = tmp_path.glob("found*.json")
    results = json.loads(written.read_text())
    assert results["n-samples"]["toy_questions"]["effective"] == 2
    assert server.api_key not in written.read_text()
