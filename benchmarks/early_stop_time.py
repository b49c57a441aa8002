"""What early stops cost the scheduler: the median time of a request in a step, without an engine.

    python -m benchmarks.early_stop_time

A step of 256 requests is gone through as vLLM's scheduler does it, once with early stops that never
end an answer, once with confidence alone, once with neither.
"""

from __future__ import annotations

import platform
from statistics import median
from time import perf_counter

import numpy as np
from vllm.sampling_params import SamplingParams
from vllm.v1.outputs import LogprobsLists, ModelRunnerOutput
from vllm.v1.request import Request

from conf_server.engine.core.early_stops import EarlyStops
from conf_server.engine.marks import ask_for_rows
from conf_server.stats.columns import NUM_TOKEN_STATISTICS
from conf_server.stats.early_stop import EarlyStop

REQUESTS = 256
STEPS = 3000
WINDOW = 2048
WAYS = ("early_stop", "stats", "nothing")


def requests(way: str) -> list[Request]:
    """Running requests that ask for one of `WAYS`."""
    made = []
    for number in range(REQUESTS):
        params = SamplingParams(max_tokens=STEPS + 1)
        if way != "nothing":
            rule = EarlyStop(-1.0, WINDOW, WINDOW) if way == "early_stop" else None
            ask_for_rows(params, 0, 20, at_end=True, early_stop=rule)
        made.append(Request(f"chatcmpl-{number:032x}", [1, 2, 3], params, None))
    return made


def step(running: list[Request], number: int) -> ModelRunnerOutput:
    """What the workers have made of a token of each request."""
    draw = np.random.default_rng(number)
    rows = draw.gamma(2.0, 6.0, (REQUESTS, 1 + NUM_TOKEN_STATISTICS)).astype(np.float32)
    ids, ranks = np.ones((REQUESTS, 1), np.int32), np.zeros(REQUESTS, np.int64)
    names = [request.request_id for request in running]
    return ModelRunnerOutput(
        req_ids=names,
        req_id_to_index={name: index for index, name in enumerate(names)},
        sampled_token_ids=[[1]] * REQUESTS,
        logprobs=LogprobsLists(ids, rows, ranks),
    )


def step_us(way: str) -> float:
    """Median microseconds that a step takes for all its requests, windows full or not."""
    running, stops, taken = requests(way), EarlyStops(), []
    for number in range(STEPS):
        output = step(running, number)
        start = perf_counter()
        stops.begin_step(output)
        ended = [request for request in running if stops.stops(request, 1)]
        stops.end_step()
        taken.append(perf_counter() - start)
        assert not ended
    return median(taken) * 1e6


def main() -> None:
    print(f"numpy {np.__version__}, Python {platform.python_version()}, {platform.machine()};")
    print(f"{REQUESTS} requests, window {WINDOW}. Microseconds, median of {STEPS} steps.\n")
    print("| asked for | a step | a request |")
    print("|---|---:|---:|")
    for way in WAYS:
        whole = step_us(way)
        print(f"| {way} | {whole:.0f} | {whole / REQUESTS:.3f} |")


if __name__ == "__main__":
    main()
