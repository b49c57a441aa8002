"""What the numbers of a finished answer cost: the median time of its confidence and its summary.

    python -m benchmarks.summary_time

The aim is under 1 ms for the summary of 10,000 tokens.
"""

import platform
from collections.abc import Callable
from functools import partial
from statistics import median
from timeit import Timer

import numpy as np
from numpy.typing import NDArray

from conf_server.stats.confidence import confidence_summary, token_confidence

TOP_K = 20
TOKENS = (256, 2_000, 10_000, 16_000, 100_000)


def median_us(work: Callable[[], object]) -> float:
    """Median microseconds of one call, over 51 rounds of at least 2 ms each."""
    timer = Timer(work)
    calls, seconds = timer.autorange()
    number = max(1, round(2e-3 * calls / seconds))
    return median(timer.repeat(51, number)) / number * 1e6


def rows_to_summary(rows: NDArray[np.float32]) -> None:
    confidence_summary(token_confidence(rows, TOP_K))


def main() -> None:
    print(f"numpy {np.__version__}, Python {platform.python_version()}, {platform.machine()};")
    print(f"window 2048, top_k {TOP_K}, float32 rows. Microseconds, median of 51.\n")
    print("| tokens | np.mean | summary | ratio | rows to summary | of which confidence |")
    print("|---:|---:|---:|---:|---:|---:|")
    draw = np.random.default_rng(0)
    for tokens in TOKENS:
        rows = -draw.gamma(2.0, 6.0, (tokens, TOP_K)).astype(np.float32)
        rows[:, ::-1].sort()
        confidence = token_confidence(rows, TOP_K)
        mean = median_us(partial(np.mean, confidence))
        summary = median_us(partial(confidence_summary, confidence))
        whole = median_us(partial(rows_to_summary, rows))
        per_token = median_us(partial(token_confidence, rows, TOP_K))
        print(
            f"| {tokens:,} | {mean:.1f} | {summary:.0f} | {summary / mean:.0f} "
            f"| {whole:.0f} | {per_token:.0f} |"
        )


if __name__ == "__main__":
    main()
