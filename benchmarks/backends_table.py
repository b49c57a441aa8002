"""The table of docs/backends.md: every method by the engine, by a scorer and by transformers alone.

    python -m benchmarks.backends_table > table.md

Question, answer and samples are given, so that all of them read the same texts. The servers run
one after another; times are the medians of a few requests that ask for one method each.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Final

import psutil

from benchmarks.plan import EMBEDDED
from conf_server.server_process import ServerProcess

REQUESTS: Final = 3
START_S: Final = 600.0
NAME: Final = "served"
ENGINE_FLAGS: Final = ("--kv-cache-memory-bytes=1G", "--max-model-len=1024")
SMALL_FLAGS: Final = ("--backend=transformers", "--max-model-len=1024", "--enable-hidden-states")
QUESTION: Final = "What is the capital of France?"
ANSWER: Final = "The capital of France is Paris."
SAMPLES: Final = ("It is Paris.", "Paris, of course.", "The capital of France is Lyon.")


@dataclass(frozen=True)
class Setup:
    """A way of computing methods.

    Attributes:
        flags: of its server.
        backend: who is asked, where a server has both.
    """

    name: str
    flags: tuple[str, ...]
    backend: str | None = None


SETUPS: Final = (
    Setup("engine", (*ENGINE_FLAGS, "--enable-hidden-states")),
    Setup("scorer", (*ENGINE_FLAGS, "--scorer=transformers", "--scorer-dtype=float32"), "scorer"),
    Setup("transformers", (*SMALL_FLAGS, "--dtype=float32")),
)
INT8: Final = Setup("transformers, int8", (*SMALL_FLAGS, "--quantization=int8"))


@dataclass
class Found:
    """What a set-up has said.

    Attributes:
        values, seconds: by method.
        peak_mb: the most memory that all its processes have had resident, added up.
    """

    values: dict[str, float | None] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    peak_mb: float = 0.0


def measure(setup: Setup, model: str, logs: Path, requests: int = REQUESTS) -> Found:
    """Start the server of a set-up, and ask it for each method that it has so many times."""
    logs.mkdir(parents=True, exist_ok=True)
    flags = [f"--model={model}", f"--served-model-name={NAME}", *setup.flags]
    found = Found()
    server = ServerProcess(flags, logs / f"{setup.name.replace(', ', '-')}.log").start()
    try:
        server.wait_until_healthy(START_S)
        for method in _methods(server, setup):
            _ask(server, setup, method, found, requests)
            print(f"{setup.name}: {method}", file=sys.stderr, flush=True)
        found.peak_mb = _peak_mb(server.process.pid)
    finally:
        server.stop()
    return found


def _methods(server: ServerProcess, setup: Setup) -> list[str]:
    """Methods that read given texts; those that generate would judge texts of their own."""
    listed = _json(f"{server.url}/v1/uncertainty/methods")["data"]
    return [
        method["name"]
        for method in listed
        if method["available"]
        and not {"p_true_samples", "verbalized_1s", "verbalized_2s", "linguistic_1s"}
        & set(method["needs"])
        and (setup.backend is None or method.get("backend") is not None)
    ]


def _ask(server: ServerProcess, setup: Setup, method: str, found: Found, requests: int) -> None:
    options: dict[str, Any] = {"methods": [method], "similarity": "rouge_l"}
    if setup.backend is not None:
        options["backend"] = setup.backend
    body = {
        "messages": [{"role": "user", "content": QUESTION}],
        "answer": {"text": ANSWER, "finished": True},
        "samples": [{"text": text, "finished": True} for text in SAMPLES],
        "uncertainty": options,
    }
    times = []
    for _ in range(requests):
        start = time.perf_counter()
        try:
            answer = _json(f"{server.url}/v1/uncertainty", body)
        except urllib.error.HTTPError as error:
            print(f"{setup.name}: {method}: {error.read().decode()[:200]}", file=sys.stderr)
            return
        times.append(time.perf_counter() - start)
    estimate = answer["estimates"].get(method)
    if estimate is not None:
        found.values[method], found.seconds[method] = estimate["value"], median(times)


def _json(url: str, body: Any = None) -> Any:
    content = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, content, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


def _peak_mb(pid: int) -> float:
    """Sum of the most memory that a process and its children have had resident."""
    family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    peaks = 0
    for process in family:
        lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
        peaks += sum(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    return peaks * 1024 / 1e6


def table(found: dict[str, Found]) -> str:
    """Values, seconds, and how far the values lie apart."""
    names = list(found)
    methods = dict.fromkeys(method for one in found.values() for method in one.values)
    head = ["method", *names, "largest distance", *(f"{name}, s" for name in names)]
    rows = [head, ["---", *["---:"] * (len(head) - 1)]]
    for method in methods:
        values = [one.values.get(method) for one in found.values()]
        exact = [
            v for name, v in zip(names, values, strict=True) if v is not None and "int" not in name
        ]
        distance = f"{max(exact) - min(exact):.1e}" if len(exact) > 1 else "–"
        seconds = [one.seconds.get(method) for one in found.values()]
        cells = ["–" if v is None else f"{v:.5f}" for v in values]
        times = ["–" if v is None else f"{v:.3f}" for v in seconds]
        rows.append([f"`{method}`", *cells, distance, *times])
    peaks = [f"{one.peak_mb:,.0f}" for one in found.values()]
    rows.append(["peak memory, MB", *peaks, "", *[""] * len(names)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=str(EMBEDDED))
    parser.add_argument("--int8", action="store_true", help="needs torchao, or bitsandbytes")
    parser.add_argument("--logs", type=Path, default=Path("build/backends"))
    given = parser.parse_args(arguments)
    setups = [*SETUPS, INT8] if given.int8 else [*SETUPS]
    print(table({setup.name: measure(setup, given.model, given.logs) for setup in setups}))


if __name__ == "__main__":
    main()
