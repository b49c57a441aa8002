"""What exact token statistics cost on the CPU, beside stock vLLM's top-20 and a plain argmax.

    python benchmarks/worker_kernels.py [--vocab 49152] [--threads 1] [--rounds 21]

Rounds are interleaved and the median is taken. `top-20` is vLLM's own code for
`logprobs=20`: log-softmax, top-k and the sampled token's rank. The aim: statistics of 32
rows in under a quarter of its time.
"""

import argparse
import platform
from collections.abc import Callable
from statistics import median
from time import perf_counter

import torch
from torch import Tensor
from vllm.v1.sample.sampler import Sampler

from conf_server.engine.worker.token_statistics import statistics_torch, token_statistics

TOP_K = 20
ROWS = (1, 8, 32, 64)


def stock_top_k(logits: Tensor, sampled: Tensor) -> object:
    return Sampler.gather_logprobs(Sampler.compute_logprobs(logits), TOP_K, sampled)


def medians_ms(works: list[Callable[[], object]], rounds: int) -> list[float]:
    """Median milliseconds of each, in rounds that run them one after the other."""
    seconds: list[list[float]] = [[] for _ in works]
    for _ in range(rounds + 2):
        for work, taken in zip(works, seconds, strict=True):
            start = perf_counter()
            work()
            taken.append(perf_counter() - start)
    return [median(taken[2:]) * 1e3 for taken in seconds]  # two rounds to warm up


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vocab", type=int, default=49_152)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=21)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)

    print(f"torch {torch.__version__}, {args.threads} threads, {platform.machine()}; V = ", end="")
    print(f"{args.vocab:,} float32, k = {TOP_K}. Milliseconds, median of {args.rounds}.\n")
    print("| rows | statistics | in torch | top-20 | argmax | statistics / top-20 |")
    print("|---:|---:|---:|---:|---:|---:|")
    for n in ROWS:
        logits = torch.randn(n, args.vocab) * 3
        top_k, sampled = [TOP_K] * n, logits.argmax(-1)
        works: list[Callable[[], object]] = [
            lambda logits=logits, top_k=top_k: token_statistics(logits, top_k),
            lambda logits=logits, top_k=top_k: statistics_torch(logits, top_k),
            lambda logits=logits, sampled=sampled: stock_top_k(logits, sampled),
            lambda logits=logits: logits.argmax(-1),
        ]
        ours, in_torch, stock, argmax = medians_ms(works, args.rounds)
        times = " | ".join(f"{ms:.3g}" for ms in (ours, in_torch, stock, argmax))
        print(f"| {n} | {times} | {ours / stock:.3f} |", flush=True)


if __name__ == "__main__":
    main()
