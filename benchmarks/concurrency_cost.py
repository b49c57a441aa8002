"""Table 3: cost against concurrency, and against the length of what is summarised."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
from tqdm import tqdm

from benchmarks import chat_cost
from benchmarks.load_client import Client, Label, Results
from benchmarks.servers import CONF, STOCK, Server
from benchmarks.summary_time import median_us
from conf_server.stats.confidence import confidence_summary

TRACE_LENGTHS = (256, 2_048, 16_384)
METHODS = (
    chat_cost.method(CONF, chat_cost.NOTHING),
    chat_cost.method(CONF, "stats"),
    chat_cost.method(STOCK, chat_cost.NOTHING),
    chat_cost.method(STOCK, chat_cost.TOP_20),
)


def label(how: chat_cost.Method, concurrency: int) -> Label:
    return (how.server, how.name, str(concurrency))


async def run(
    client: Client,
    servers: Mapping[str, Server],
    bar: tqdm,
    *,
    rounds: int,
    concurrencies: Sequence[int],
    max_tokens: int,
) -> Results:
    """Measure every method at every concurrency once a round, in another order each round."""
    pairs = [(how, concurrency) for concurrency in concurrencies for how in METHODS]
    results: Results = {label(*pair): [] for pair in pairs}
    for number in range(1, rounds + 1):
        for how, concurrency in random.Random(number).sample(pairs, len(pairs)):
            bar.set_postfix_str(f"concurrency {concurrency}: {how.server} {how.name}")
            taken = await chat_cost.sample(
                client,
                servers[how.server],
                how,
                requests=max(2, concurrency),
                concurrency=concurrency,
                max_tokens=max_tokens,
                number=number,
            )
            results[label(how, concurrency)].append(taken)
            bar.update()
    return results


def steps(rounds: int, concurrencies: Sequence[int]) -> int:
    """Return how often `run` moves the progress bar."""
    return rounds * len(concurrencies) * len(METHODS)


def summary_us(lengths: Sequence[int] = TRACE_LENGTHS) -> dict[int, float]:
    """Return the microseconds that the summary of a trace of each length takes, in process."""
    draw = np.random.default_rng(0)
    return {
        length: median_us(partial(confidence_summary, draw.gamma(2.0, 6.0, length)))
        for length in lengths
    }
