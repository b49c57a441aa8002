"""What `stats`, or an early stop, costs, to a part in a hundred: many short pairs on one server.

    python -m benchmarks.statistics_pairs [--of stats|early_stop] [--pairs 60]

Table 1 of `make bench` has a handful of rounds, and another machine's load turns a ratio of 1.00
into 0.97 there. Here one server gets the same prompts in two ways, one right after the other, in
turns: without confidence and with `stats`, or with `stats` and with an early stop beside it that
never ends an answer. What is printed is the median of the pairs' ratios with its 95 % interval.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from benchmarks import chat_cost
from benchmarks.load_client import Client, Sample
from benchmarks.plan import CPU, CUDA, EMBEDDED, OUT
from benchmarks.servers import CONF, PROCESSES, Server, running, runs_on_cuda

RESAMPLES = 10_000
NEVER = {"below": -1.0, "window": 16}
"""No confidence is below 0."""

_STATS = chat_cost.method(CONF, "stats")
PAIRS = {
    "stats": (chat_cost.method(CONF, chat_cost.NOTHING), _STATS),
    "early_stop": (
        _STATS,
        chat_cost.Method(
            CONF,
            "stats and early_stop",
            {"logprobs": True, "confidence": {"mode": "stats", "early_stop": NEVER}},
            b'"early_stop":null',
        ),
    ),
}
"""What is measured: the ways of which the second is to cost no more than the first."""


def intervals(ratios: NDArray[np.float64]) -> tuple[float, float, float]:
    """The median of n ratios, and the 95 % interval of that median by the bootstrap."""
    draws = np.random.default_rng(0).choice(ratios, (RESAMPLES, len(ratios)))
    low, high = np.percentile(np.median(draws, axis=1), [2.5, 97.5])
    return float(np.median(ratios)), float(low), float(high)


async def measure(
    server: Server,
    ways: tuple[chat_cost.Method, chat_cost.Method],
    pairs: int,
    concurrency: int,
    max_tokens: int,
) -> list[tuple[Sample, Sample]]:
    """Pairs of samples, one of each way."""
    taken: list[tuple[Sample, Sample]] = []
    async with Client() as client:
        await chat_cost.warm_up(client, {CONF: server}, concurrency, max_tokens)
        for number in tqdm(range(pairs), unit="pair", dynamic_ncols=True):
            order = ways if number % 2 else ways[::-1]
            samples = [
                await chat_cost.sample(
                    client,
                    server,
                    how,
                    requests=concurrency,
                    concurrency=concurrency,
                    max_tokens=max_tokens,
                    number=number,
                )
                for how in order
            ]
            first, second = samples if number % 2 else samples[::-1]
            taken.append((first, second))
    return taken


def table(taken: list[tuple[Sample, Sample]]) -> str:
    """Ratios of the second way to the first, as Markdown."""
    measures = {f"{role} CPU per token": (role, Sample.cpu_us_per_token) for role in PROCESSES}
    rows = ["| | median × | 95 % |", "| --- | ---: | ---: |"]
    for name, (role, cpu) in measures.items():
        ratios = np.array([cpu(second, role) / cpu(first, role) for first, second in taken])
        rows.append(_row(name, ratios))
    speeds = [second.tokens_per_second() / first.tokens_per_second() for first, second in taken]
    return "\n".join([*rows, _row("tokens/s", np.array(speeds))])


def _row(name: str, ratios: NDArray[np.float64]) -> str:
    middle, low, high = intervals(ratios)
    return f"| {name} | {middle:.3f} | {low:.3f} to {high:.3f} |"


def main() -> None:
    machine = CUDA if runs_on_cuda() else CPU
    parser = argparse.ArgumentParser("python -m benchmarks.statistics_pairs", description=__doc__)
    parser.add_argument("--model", default=str(EMBEDDED))
    parser.add_argument("--of", choices=PAIRS, default="stats")
    parser.add_argument("--pairs", type=int, default=60)
    parser.add_argument("--concurrency", type=int, default=machine.concurrency)
    parser.add_argument("--max-tokens", type=int, default=32)
    given = parser.parse_args()
    logs = Path(OUT) / "logs"
    print(f"Starting {CONF}; its log is in {logs}", file=sys.stderr, flush=True)
    with running([CONF], given.model, machine.flags.split(), logs) as servers:
        taken = asyncio.run(
            measure(
                servers[CONF],
                PAIRS[given.of],
                given.pairs,
                given.concurrency,
                given.max_tokens,
            )
        )
    asked = f"{given.concurrency} requests of {given.max_tokens} tokens each"
    print(f"{given.of}: {given.pairs} pairs, {asked}.\n")
    print(table(taken))


if __name__ == "__main__":
    main()
