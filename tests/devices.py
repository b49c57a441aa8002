"""Where the tests' kernels and engines run: on a GPU, or on the CPU in place of one.

A test that needs a GPU is marked `gpu`. Without one it is skipped, and these run in its place:

    GPU                                           its twin on the CPU
    engine/test_token_statistics_triton[cuda]     the same cases in Triton's interpreter
    engine/test_v2_runner[cuda]                   the same requests in Triton's interpreter
    e2e/test_gpu, float32                         e2e/test_chat and e2e/test_score, in float32
    e2e/test_gpu, scorer                          e2e/test_scorer
    e2e/test_gpu, transformers                    the tests of e2e that run on both servers
    e2e/test_gpu, swap                            engine/test_sleeping, at a level without memory
    e2e/test_gpu, bfloat16 with CUDA graphs       none: there are no CUDA graphs on a CPU
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

HAS_CUDA = torch.cuda.is_available()
if HAS_CUDA:
    # A process that has asked for GPUs cannot be forked by one that is to use them.
    os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "spawn"
TRITON_CPU = Path(__file__).parent / "triton_cpu"

FLOAT32_PRODUCTS = {"TRITON_F32_DEFAULT": "ieee"}
"""Triton's matrix products take TF32 for float32 unless told otherwise, which is 1e-3 off."""


SMALL_SHARE = 0.05
"""Of a GPU's memory. An engine starts only where its share is free, whatever its cache's size is
set to, and several engines of the tests run on one GPU."""


@dataclass(frozen=True)
class TritonDevice:
    """Where Triton's kernels run, in a process of its own: a process has one way or the other.

    Attributes:
        name: torch's.
    """

    name: str

    def environment(self) -> dict[str, str]:
        """The whole environment of a process whose kernels run there."""
        if self.name == "cuda":
            return {**os.environ, **FLOAT32_PRODUCTS}
        path = [str(TRITON_CPU), *filter(None, [os.environ.get("PYTHONPATH")])]
        return {**os.environ, "PYTHONPATH": os.pathsep.join(path), "TRITON_INTERPRET": "1"}


TRITON_DEVICES = (
    pytest.param(
        TritonDevice("cpu"),
        id="interpreter",
        marks=pytest.mark.skipif(HAS_CUDA, reason="the GPU runs the kernels themselves"),
    ),
    pytest.param(TritonDevice("cuda"), id="cuda", marks=pytest.mark.gpu),
)
"""For `pytest.fixture(params=...)` of what is tested on either."""
