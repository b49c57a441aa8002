"""What an evaluation by lm-eval costs: its models conf-score and local-completions, one server.

    python -m benchmarks.lm_eval_cost

needs lm-eval with its extra `api`, and starts conf-server. The two models get the same number of
questions in turn, each in each round other ones of the same length, so that neither finds the
other's contexts, or its own of the last round, in the server's prefix cache.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

import httpx
from lm_eval import simple_evaluate
from lm_eval.models.openai_completions import (
    LocalCompletionsAPI,
)
from lm_eval.tasks import TaskManager

from benchmarks.results import machine, versions
from benchmarks.servers import CONF, MODEL_NAME, ROOT, Server, ServerError, running
from conf_server.integrations.lm_eval import ConfScore

EMBEDDED: Final = ROOT / ".cache" / "models" / "SmolLM2-135M-Instruct"
TASKS: Final = ROOT / "tests" / "lm_eval_tasks"
FLAGS: Final = "--dtype=float32 --kv-cache-memory-bytes=512M --max-model-len=2048"
OUT: Final = ROOT / "build" / "lm_eval" / "results.json"
CONCURRENCY: Final = 8
SCORE, COMPLETIONS = "conf-score", "local-completions"
ROUTES: Final = {SCORE: "/v1/score", COMPLETIONS: "/v1/completions"}


@dataclass(frozen=True)
class Case:
    """Questions of four choices each.

    Attributes:
        task: of tests/lm_eval_tasks.
        shots: solved questions before each.
        questions: of one round.
    """

    name: str
    task: str
    shots: int
    questions: int


CASES: Final = (
    Case("short, 0-shot", "toy_questions", 0, 24),
    Case("long, 5-shot", "toy_passages", 5, 6),
)


@dataclass(frozen=True)
class Run:
    """One evaluation.

    Attributes:
        seconds: from the first request to the results.
        requests: that the server has answered.
        sent, received: bytes of their bodies.
    """

    seconds: float
    requests: float
    sent: float
    received: float


class Counters:
    """The server's counters of one route."""

    def __init__(self, server: Server, route: str) -> None:
        self._url, self._route = f"{server.url}/metrics", f'handler="{route}"'

    def read(self) -> tuple[float, float, float]:
        """Requests, bytes of their bodies, bytes of the answers."""
        lines = httpx.get(self._url, timeout=60).text.splitlines()
        names = ("http_requests_total", "http_request_size_bytes_sum")
        requests, sent, received = (
            sum(float(line.rsplit(" ", 1)[1]) for line in lines if self._is_of(line, name))
            for name in (*names, "http_response_size_bytes_sum")
        )
        return requests, sent, received

    def _is_of(self, line: str, name: str) -> bool:
        return line.startswith(f"{name}{{") and self._route in line


def models(server: Server, model: Path) -> dict[str, Any]:
    """Both, asking one server with as many requests at once."""
    shared = {"tokenizer": str(model), "num_concurrent": CONCURRENCY}
    return {
        SCORE: ConfScore(base_url=f"{server.url}/v1", **shared),
        COMPLETIONS: LocalCompletionsAPI(
            base_url=f"{server.url}/v1/completions",
            model=MODEL_NAME,
            tokenizer_backend="huggingface",
            max_length=2048,
            **shared,
        ),
    }


def evaluate(model: Any, case: Case, seed: str, questions: int) -> None:
    """Have a model answer questions that no other seed has."""
    tasks = TaskManager(include_path=str(TASKS), include_defaults=False, metadata={"seed": seed})
    simple_evaluate(
        model,
        tasks=[case.task],
        num_fewshot=case.shots,
        limit=questions,
        task_manager=tasks,
        bootstrap_iters=0,
        log_samples=False,
    )


def measured(server: Server, model: Path, rounds: int) -> Iterator[tuple[str, str, Run]]:
    """Name of the case, name of the model and what it took, round by round."""
    each = models(server, model)
    for case in CASES:
        for name, asked in each.items():
            evaluate(asked, case, f"warm-up {name}", 2)
        for number in range(rounds):
            order = list(each) if number % 2 else list(each)[::-1]
            for name in order:
                counters = Counters(server, ROUTES[name])
                before, start = counters.read(), time.perf_counter()
                evaluate(each[name], case, f"{number} {name}", case.questions)
                seconds = time.perf_counter() - start
                after = counters.read()
                counts = (end - begin for begin, end in zip(before, after, strict=True))
                run = Run(seconds, *counts)
                print(f"{case.name}, {name}: {run}", file=sys.stderr, flush=True)
                yield case.name, name, run


def table(runs: Sequence[tuple[str, str, Run]]) -> str:
    """Medians over the rounds, of each case and model."""
    lines = [
        "| questions | model | seconds | requests | sent | received | × as fast |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for case in CASES:
        found = {
            name: [run for one, by, run in runs if (one, by) == (case.name, name)]
            for name in ROUTES
        }
        for name, taken in found.items():
            pairs = zip(found[COMPLETIONS], taken, strict=True)
            ratios = [other.seconds / run.seconds for other, run in pairs]
            lines.append(
                f"| {case.questions} {case.name} | `{name}` | "
                f"{median(run.seconds for run in taken):.1f} | "
                f"{median(run.requests for run in taken):.0f} | "
                f"{median(run.sent for run in taken) / 1e3:,.0f} kB | "
                f"{median(run.received for run in taken) / 1e3:,.0f} kB | "
                f"{median(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f}) |"
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=EMBEDDED, help="Default: the embedded one.")
    parser.add_argument("--rounds", type=int, default=3, help="Default: 3.")
    parser.add_argument("--json", type=Path, default=OUT, help="Where each round's figures go.")
    parser.add_argument("--server-args", default="", help="More flags of the server.")
    given = parser.parse_args()
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    flags = [*FLAGS.split(), *given.server_args.split()]
    try:
        with running([CONF], str(given.model), flags, given.json.parent) as servers:
            runs = list(measured(servers[CONF], given.model, given.rounds))
    except ServerError as error:
        sys.exit(str(error))
    rows = [{"case": case, "model": name, **asdict(run)} for case, name, run in runs]
    given.json.write_text(json.dumps(rows, indent=1))
    print(table(runs))
    described = {**machine(), **versions(), "load": os.getloadavg()}
    print("\n" + ", ".join(f"{name} {value}" for name, value in described.items()))


if __name__ == "__main__":
    main()
