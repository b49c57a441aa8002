"""Runs `python -m benchmarks` on each model as far as the time goes, and writes one table."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu import GpuError, table, workspace
from benchmarks.gpu.models import SHAPES
from benchmarks.gpu.steps import Budget, Outcome, Step, run
from benchmarks.gpu.workspace import MODEL, Workspace

# What `benchmarks` writes into its JSON, and the number of the table that it is made of.
TABLES: Mapping[int, str] = {1: "chat", 2: "score", 3: "concurrency"}
MODELS = (MODEL, *SHAPES)
CONCURRENCY = 256
CONCURRENCIES = "1,8,64,256"
ROUNDS = 3
# Three servers on one GPU, after the CPU's flags that `benchmarks` begins with.
SERVER_ARGS = (
    "--dtype=bfloat16",
    "--no-enforce-eager",
    "--gpu-memory-utilization=0.28",
    f"--max-num-seqs={CONCURRENCY}",
)
# Three servers that compile for the first time, and one table.
AT_LEAST_S = 300


def add_arguments(parser: argparse.ArgumentParser) -> None:
    workspace.add_arguments(parser)
    workspace.add_budget(parser)
    parser.add_argument("--models", default=",".join(MODELS), help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"default: {ROUNDS}")


def main(given: argparse.Namespace) -> int:
    return bench(given, Budget(given.budget_seconds))


def bench(given: argparse.Namespace, budget: Budget) -> int:
    """0 when every table of every model is there, 2 when the budget ended first, 1 on failure."""
    models = given.models.split(",")
    if unknown := set(models) - set(MODELS):
        raise GpuError(
            f"no such model: {', '.join(sorted(unknown))}; there are {', '.join(MODELS)}"
        )
    raw = given.out / "raw"
    try:
        outcomes = run(
            plan(given.work, models, given.rounds, raw),
            budget,
            raw,
            workspace.environment(given.work),
        )
    finally:
        write_table(raw, given.out / "table.md")
    if Outcome.FAILED in outcomes.values():
        return 1
    return 2 if plan(given.work, models, given.rounds, raw) else 0


def plan(work: Workspace, models: Sequence[str], rounds: int, raw: Path) -> list[Step]:
    """A step for each model with tables that are not in `raw` yet."""
    left = {model: missing_tables(model, raw) for model in models}
    return [step(work, model, left[model], rounds, raw) for model in models if left[model]]


def missing_tables(model: str, raw: Path) -> list[int]:
    found = {key for document in documents(model, raw) for key in TABLES.values() if document[key]}
    return [number for number, key in TABLES.items() if key not in found]


def documents(model: str, raw: Path) -> list[dict[str, Any]]:
    """What `benchmarks` has written for a model, one for each run that got to a table's end."""
    return [json.loads(path.read_text()) for path in sorted(raw.glob(f"{model}.tables-*.json"))]


def step(work: Workspace, model: str, tables: Iterable[int], rounds: int, raw: Path) -> Step:
    """One run of `benchmarks`: the servers of a model start once for all of its tables."""
    numbers = [str(number) for number in tables]
    name = f"{model}.tables-{'-'.join(numbers)}"
    server_args = [*SERVER_ARGS]
    command: list[str | Path] = [work.python, "-m", "benchmarks", f"--model={work.models / model}"]
    command += [f"--tables={','.join(numbers)}", f"--rounds={rounds}"]
    command += [f"--concurrency={CONCURRENCY}", f"--concurrencies={CONCURRENCIES}"]
    if model in SHAPES:
        server_args.append("--load-format=dummy")
        command.append("--no-transformers")
    command += [f"--json={raw / name}.json", f"--server-args={' '.join(server_args)}"]
    return Step(name, command, AT_LEAST_S, repeat=True)


def write_table(raw: Path, path: Path) -> None:
    """One Markdown table of all that has been measured so far, whoever measured it."""
    measured = {model: found for model in MODELS if (found := documents(model, raw))}
    if not measured:
        return
    path.write_text(table.markdown(measured) + "\n")
    print(f"bench: {path}")
