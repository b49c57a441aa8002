"""benchmarks.gpu: what is run under a budget, what is left for the next time, and the table."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import __main__ as benchmarks_main
from benchmarks.gpu import GpuError, bench, steps, table, test
from benchmarks.gpu.steps import Budget, Outcome, Step
from benchmarks.gpu.workspace import MODEL, ROOT, Workspace

MODELS = (MODEL, "1B", "8B")


@pytest.fixture
def work(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "work")


@pytest.fixture(autouse=True)
def short_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "GRACE_S", 2)


def python(name: str, code: str, at_least_s: float = 0) -> Step:
    return Step(name, [sys.executable, "-c", code], at_least_s)


def test_steps_run_in_order_and_only_once(tmp_path: Path) -> None:
    write = f"open({str(tmp_path / 'written')!r}, 'x')"
    work = [python("a", "print('hello')"), python("b", write)]
    first = steps.run(work, Budget(60), tmp_path, os.environ)
    assert first == {"a": Outcome.DONE, "b": Outcome.DONE}
    assert (tmp_path / "a.log").read_text() == "hello\n"
    (tmp_path / "written").unlink()
    again = steps.run(work, Budget(60), tmp_path, os.environ)
    assert again == {"a": Outcome.BEFORE, "b": Outcome.BEFORE}
    assert not (tmp_path / "written").exists()


def test_what_fails_is_told_and_tried_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    work = [python("bad", "raise SystemExit('no such kernel')"), python("good", "")]
    for _ in range(2):
        outcomes = steps.run(work[:1], Budget(60), tmp_path, os.environ)
        assert outcomes == {"bad": Outcome.FAILED}
        assert "no such kernel" in capsys.readouterr().out
    assert steps.run(work, Budget(60), tmp_path, os.environ)["good"] == Outcome.DONE


def test_nothing_is_begun_that_cannot_end(tmp_path: Path) -> None:
    work = [python("long", "", at_least_s=100), python("short", "")]
    outcomes = steps.run(work, Budget(50), tmp_path, os.environ)
    assert outcomes == {"long": Outcome.NOT_BEGUN, "short": Outcome.DONE}


def test_what_does_not_end_is_interrupted_and_may_clean_up(tmp_path: Path) -> None:
    code = f"""
import time
try:
    time.sleep(60)
except KeyboardInterrupt:
    open({str(tmp_path / "cleaned")!r}, "w")
"""
    outcomes = steps.run([python("slow", code)], Budget(4), tmp_path, os.environ)
    assert outcomes == {"slow": Outcome.CUT_OFF}
    assert (tmp_path / "cleaned").exists()
    assert not (tmp_path / "slow.done").exists()


def samples(number: int, rate: float) -> list[dict[str, Any]]:
    sample = {"seconds": 1.0, "tokens": 1_000, "items": 1, "received": 1}
    return [
        {**sample, "tokens": rate * (round_ + 1), "cpu_seconds": {"api": 0.01}}
        for round_ in range(number)
    ]


def document(**tables: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "machine": {"CPU": "made up", "GPU": "NVIDIA H100 80GB HBM3"},
        "versions": {"vllm": "0.31.0"},
        "options": {"concurrency": 256},
        "chat": [],
        "score": [],
        "concurrency": [],
        **tables,
    }


def chat_results() -> list[dict[str, Any]]:
    return [
        {"label": ["conf-server", "no logprobs", "whole"], "samples": samples(3, 1000)},
        {"label": ["conf-server", "stats", "whole"], "samples": samples(3, 980)},
    ]


def put(raw: Path, name: str, content: dict[str, Any]) -> None:
    raw.mkdir(parents=True, exist_ok=True)
    (raw / f"{name}.json").write_text(json.dumps(content))


def test_each_model_is_one_step_with_all_of_its_tables(work: Workspace, tmp_path: Path) -> None:
    plan = bench.plan(work, MODELS, 3, tmp_path / "raw")
    assert [step.name for step in plan] == [f"{model}.tables-1-2-3" for model in MODELS]


def test_only_missing_tables_are_measured_again(work: Workspace, tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    put(raw, f"{MODEL}.tables-1-2-3", document(chat=chat_results()))
    put(raw, "1B.tables-1-2-3", document(chat=chat_results(), score=[{}]))
    put(raw, "1B.tables-3", document(concurrency=[{}]))
    plan = bench.plan(work, MODELS, 3, raw)
    assert [step.name for step in plan] == [f"{MODEL}.tables-2-3", "8B.tables-1-2-3"]


@pytest.mark.parametrize("model", MODELS)
def test_benchmarks_takes_the_command(
    model: str, work: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its own parser; the large shapes have no weights, so transformers has nothing to load."""
    step = bench.step(work, model, [1, 3], 2, tmp_path)
    monkeypatch.setattr(sys, "argv", [str(word) for word in step.command[2:]])
    given = benchmarks_main.arguments()
    plan = benchmarks_main.planned(given)
    assert (plan.tables, plan.rounds, plan.concurrency) == ({1, 3}, 2, 256)
    assert plan.concurrencies == (1, 8, 64, 256)
    assert given.json == tmp_path / f"{model}.tables-1-3.json"
    assert (
        ("--load-format=dummy" in given.server_args) == (model != MODEL) == (not plan.transformers)
    )


def test_the_gpu_tests_come_with_their_checks(work: Workspace, tmp_path: Path) -> None:
    plan = test.plan(work, tmp_path)
    assert [step.name for step in plan] == [
        "test_token_statistics_triton",
        "kernel",
        "test_v2_runner",
        "end_to_end",
    ]
    for step in plan:
        for word in step.command:
            if str(word).startswith("tests/"):
                assert (ROOT / word).is_file()


def test_a_test_that_would_be_interpreted_is_refused(tmp_path: Path) -> None:
    (tmp_path / "test_kernel.py").write_text("assert True\n")
    with pytest.raises(GpuError, match="interpreter"):
        test.check_runs_natively(tmp_path / "test_kernel.py")


def test_one_table_of_everything(tmp_path: Path) -> None:
    scored = [
        {"label": ["conf-server", "plain prefill, cold"], "samples": samples(2, 4000)},
        {"label": ["conf-server", "/v1/score, cold"], "samples": samples(2, 2000)},
        {"label": ["transformers", "forward pass of each item"], "samples": samples(1, 400)},
    ]
    documents = {
        "1B": [document(chat=chat_results())],
        "8B": [document(), document(score=scored)],
    }
    text = table.markdown(documents)
    about, rows = text.split("\n\n")[0], text.splitlines()[-7:]
    assert about == "CPU made up, GPU NVIDIA H100 80GB HBM3, vllm 0.31.0."
    assert rows[2:] == [
        "| 1B | chat, 256 at a time, whole | conf-server | no logprobs "
        "| 2,000 | 1.00 | 5 | 1.00 | 3 |",
        "| 1B | chat, 256 at a time, whole | conf-server | stats | 1,960 | 0.98 | 5 | 1.02 | 3 |",
        "| 8B | scoring | conf-server | plain prefill, cold | 6,000 | 1.00 | 2 | 1.00 | 2 |",
        "| 8B | scoring | conf-server | /v1/score, cold | 3,000 | 0.50 | 4 | 2.00 | 2 |",
        "| 8B | scoring | transformers | forward pass of each item | 400 | 0.10 | 25 | 10.00 | 1 |",
    ]


def test_figures_of_different_machines_do_not_share_a_table() -> None:
    other = {**document(chat=chat_results()), "machine": {"GPU": "none"}}
    with pytest.raises(GpuError, match="different machines"):
        table.markdown({"1B": [document(chat=chat_results())], "8B": [other]})
