"""What the statistics kernel takes on a GPU, beside vLLM's top-20 log-probabilities.

    python -m benchmarks.gpu.kernel [--vocab 128256] [--out FILE]

Its rows are first compared with the definitions in float64. Then medians of Triton's do_bench,
which empties the L2 cache before each run. Two ways of vLLM's to `logprobs=20`, sampled token's
rank included: the V1 sampler's log-softmax and top-k in torch, and the V2 runner's, which GPUs use
by default, top-k in torch and two Triton kernels.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import torch
from torch import Tensor
from vllm.v1.worker.gpu.sample.logprob import compute_topk_scores

from benchmarks.worker_kernels import stock_top_k
from conf_server.engine.worker.token_statistics_triton import statistics
from tests.reference import token_statistics as definitions

TOP_K = 20
ROWS = (1, 32, 256)
CHECKED_ROWS = 8
DTYPES = (torch.bfloat16, torch.float32)


def logits(rows: int, vocabulary: int, dtype: torch.dtype, device: str) -> Tensor:
    generator = torch.Generator(device).manual_seed(0)
    return (torch.randn(rows, vocabulary, device=device, generator=generator) * 3).to(dtype)


def check(values: Tensor) -> float:
    """Largest distance of the kernel's statistics from float64's definitions, in nats.

    Raises:
        AssertionError: it is beyond what float32 rounding explains.
    """
    top_k = torch.full((len(values),), TOP_K, dtype=torch.int32, device=values.device)
    got = statistics(values, top_k).double().cpu().numpy()
    expected = definitions(values.double().log_softmax(-1).cpu().numpy(), TOP_K)
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-5)
    return float(np.abs(got - expected).max())


def milliseconds(work: Callable[[], object]) -> float:
    from triton.testing import do_bench  # type: ignore[import-untyped]

    times: list[float] = do_bench(work, warmup=50, rep=200, return_mode="all")
    return median(times)


def row(rows: int, vocabulary: int, dtype: torch.dtype) -> str:
    values = logits(rows, vocabulary, dtype, "cuda")
    top_k = torch.full((rows,), TOP_K, dtype=torch.int32, device="cuda")
    sampled = values.argmax(-1)
    ours = milliseconds(lambda: statistics(values, top_k))
    in_torch = milliseconds(lambda: stock_top_k(values, sampled))
    stock = milliseconds(lambda: compute_topk_scores(values, TOP_K, sampled))
    read = values.nbytes / ours / 1e6
    name = str(dtype).removeprefix("torch.")
    times = f"{ours:.4f} | {in_torch:.4f} | {stock:.4f} | {ours / stock:.3f}"
    return f"| {rows} | {name} | {times} | {read:,.0f} |"


def table(vocabulary: int) -> str:
    differences = [check(logits(CHECKED_ROWS, vocabulary, dtype, "cuda")) for dtype in DTYPES]
    lines = [
        f"{torch.cuda.get_device_name()}, torch {torch.__version__}, V = {vocabulary:,}, "
        f"k = {TOP_K}. Milliseconds, medians. At most {max(differences):.1g} nats from float64.",
        "",
        "| rows | logits | statistics | top-20, V1 | top-20, V2 | statistics / V2 | "
        "logits read once, GB/s |",
        "|---:|---|---:|---:|---:|---:|---:|",
    ]
    return "\n".join([*lines, *(row(n, vocabulary, dtype) for dtype in DTYPES for n in ROWS)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--vocab", type=int, default=128_256)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    text = table(given.vocab)
    print(text)
    if given.out:
        given.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
