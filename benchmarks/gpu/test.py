"""On the CUDA host: the GPU tests without Triton's interpreter, an end-to-end check, the kernel."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.gpu import GpuError, workspace
from benchmarks.gpu.steps import Budget, Outcome, Step, run
from benchmarks.gpu.workspace import ROOT, Workspace

DEVICE = "CONF_SERVER_TEST_DEVICE"
TESTS = ("test_token_statistics_triton", "test_v2_runner")

# Triton's matrix products take TF32 for float32 unless told otherwise: 1e-3 off at best.
FLOAT32 = {"TRITON_F32_DEFAULT": "ieee"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    workspace.add_arguments(parser)
    workspace.add_budget(parser)


def main(given: argparse.Namespace) -> int:
    return test(given, Budget(given.budget_seconds))


def test(given: argparse.Namespace, budget: Budget) -> int:
    """0 when all have passed, now or before; 2 when the budget ended first; 1 on failure."""
    for name in TESTS:
        check_runs_natively(ROOT / "tests" / "engine" / f"{name}.py")
    environ = {
        **workspace.environment(given.work),
        **FLOAT32,
        DEVICE: "cuda",
        "CONF_SERVER_TEST_MODEL": str(given.work.embedded_model),
    }
    outcomes = run(plan(given.work, given.out), budget, given.out / "test", environ)
    if Outcome.FAILED in outcomes.values():
        return 1
    return 0 if set(outcomes.values()) <= {Outcome.DONE, Outcome.BEFORE} else 2


def check_runs_natively(path: Path) -> None:
    """Raises GpuError for a test that would quietly run in Triton's interpreter."""
    if DEVICE not in path.read_text():
        raise GpuError(f"{path.name} does not look at {DEVICE}: it would run in the interpreter")


def plan(work: Workspace, out: Path) -> list[Step]:
    """The fast ones first: each says more about what fails after it."""
    measure: list[str | Path] = [
        work.python,
        "-m",
        "benchmarks.gpu.kernel",
        "--out",
        out / "kernel.md",
    ]
    check: list[str | Path] = [
        work.python,
        "-m",
        "benchmarks.gpu.end_to_end",
        "--model",
        work.embedded_model,
    ]
    return [
        _pytest(work, TESTS[0], 60),
        Step("kernel", measure, 60),
        _pytest(work, TESTS[1], 120),
        Step("end_to_end", [*check, "--out", out / "end_to_end.md"], 240),
    ]


def _pytest(work: Workspace, name: str, at_least_s: float) -> Step:
    path = Path("tests") / "engine" / f"{name}.py"
    return Step(
        name, [work.python, "-m", "pytest", "-v", "-p", "no:cacheprovider", path], at_least_s
    )
