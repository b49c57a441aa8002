"""Table 5: what exact token statistics cost in a worker, beside stock vLLM's top-20.

    python -m benchmarks.worker_kernels [--device cpu] [--vocab 128256] [--rows 1,32]

This prints one line of JSON for each number of rows. `top-20` is vLLM's own code for `logprobs=20`:
log-softmax, top-k and the sampled token's rank, as the V1 sampler and (on a GPU) the V2 runner
compute them. On the CPU the methods take turns, and the median of their rounds counts; on a GPU it
is the median of Triton's `do_bench`, which empties the L2 cache before each run.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from time import perf_counter

from benchmarks.servers import ROOT, ServerError

TOP_K = 20
STATISTICS, IN_TORCH, ARGMAX = "statistics", "in torch", "argmax"
TOP_20_V1, TOP_20_V2 = "top-20, V1", "top-20, V2"
VOCABULARY = 128_256
ROWS = {"cpu": (1, 8, 32, 64), "cuda": (1, 32, 256)}
DTYPES = {"cpu": ("float32",), "cuda": ("bfloat16", "float32")}


@dataclass(frozen=True)
class KernelTimes:
    """What one batch of logits took.

    Attributes:
        dtype: the logits', as torch names it.
        rows: how many sequences the batch has.
        vocabulary: how many logits a row has.
        milliseconds: the median of each method.
    """

    dtype: str
    rows: int
    vocabulary: int
    milliseconds: Mapping[str, float]

    def ratio(self) -> float:
        """Statistics to the quickest of vLLM's ways to the top 20."""
        stock = [ms for name, ms in self.milliseconds.items() if name in (TOP_20_V1, TOP_20_V2)]
        return self.milliseconds[STATISTICS] / min(stock)


def measure(*flags: str) -> list[KernelTimes]:
    """Run this module in a process of its own, because importing torch and vLLM takes seconds.

    Raises:
        ServerError: the process failed.
    """
    command = [sys.executable, "-m", "benchmarks.worker_kernels", *flags]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise ServerError(f"the kernels could not be timed.\n{done.stderr[-3000:]}")
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    return [KernelTimes(**json.loads(line)) for line in lines]


def in_turn(works: Sequence[Callable[[], object]], rounds: int) -> list[float]:
    """Median milliseconds of each, in rounds that run them one after the other."""
    seconds: list[list[float]] = [[] for _ in works]
    for _ in range(rounds + 2):
        for work, taken in zip(works, seconds, strict=True):
            start = perf_counter()
            work()
            taken.append(perf_counter() - start)
    return [median(taken[2:]) * 1e3 for taken in seconds]  # The first two rounds warm up.


def on_gpu(work: Callable[[], object]) -> float:
    """Median milliseconds of one call."""
    from triton.testing import do_bench  # type: ignore[import-untyped]

    times: list[float] = do_bench(work, warmup=50, rep=200, return_mode="all")
    return median(times)


def times(dtype: str, rows: int, vocabulary: int, device: str, rounds: int) -> KernelTimes:
    """Time the methods on random logits."""
    import torch
    from vllm.v1.sample.sampler import Sampler

    from conf_server.engine.worker.token_statistics import statistics_torch, token_statistics

    generator = torch.Generator(device).manual_seed(0)
    logits = torch.randn(rows, vocabulary, device=device, generator=generator) * 3
    logits = logits.to(getattr(torch, dtype))
    sampled = logits.argmax(-1)

    def stock_v1() -> object:
        return Sampler.gather_logprobs(Sampler.compute_logprobs(logits), TOP_K, sampled)

    works: dict[str, Callable[[], object]]
    if device == "cuda":
        from vllm.v1.worker.gpu.sample.logprob import compute_topk_scores

        from conf_server.engine.worker.token_statistics_triton import statistics

        top_k = torch.full((rows,), TOP_K, dtype=torch.int32, device=device)
        works = {
            STATISTICS: lambda: statistics(logits, top_k),
            TOP_20_V1: stock_v1,
            TOP_20_V2: lambda: compute_topk_scores(logits, TOP_K, sampled),
            ARGMAX: lambda: logits.argmax(-1),
        }
        taken = [on_gpu(work) for work in works.values()]
    else:
        works = {
            STATISTICS: lambda: token_statistics(logits, [TOP_K] * rows),
            IN_TORCH: lambda: statistics_torch(logits, [TOP_K] * rows),
            TOP_20_V1: stock_v1,
            ARGMAX: lambda: logits.argmax(-1),
        }
        taken = in_turn(list(works.values()), rounds)
    return KernelTimes(dtype, rows, vocabulary, dict(zip(works, taken, strict=True)))


def main() -> None:
    import torch

    default = "cuda" if torch.cuda.is_available() else "cpu"
    parser = argparse.ArgumentParser(
        "python -m benchmarks.worker_kernels",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--device", choices=("cpu", "cuda"), default=default, help="default: %(default)s")
    add("--vocab", type=int, default=VOCABULARY, help="logits of a row (default: %(default)s)")
    add("--rows", help="batch sizes (default: 1,8,32,64 on the CPU, 1,32,256 on a GPU)")
    add("--threads", type=int, default=1, help="of the CPU (default: 1)")
    add("--rounds", type=int, default=21, help="on the CPU (default: 21)")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    sizes = [int(n) for n in given.rows.split(",")] if given.rows else ROWS[given.device]
    for dtype in DTYPES[given.device]:
        for rows in sizes:
            found = times(dtype, rows, given.vocab, given.device, given.rounds)
            print(json.dumps(asdict(found)), flush=True)


if __name__ == "__main__":
    main()
