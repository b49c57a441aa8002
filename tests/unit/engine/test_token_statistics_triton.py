"""The statistics kernel compiles for Hopper, which Triton and ptxas can do without a GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.devices import HAS_CUDA, TRITON_CPU

pytestmark = pytest.mark.skipif(
    find_spec("triton") is None, reason="needs Triton's compiler; triton is not installed"
)

ROOT = Path(__file__).parents[3]

COMPILE = """
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile
from conf_server.engine.worker import token_statistics_triton as module
from conf_server.stats.columns import TokenStatistic
kernel = module._token_statistics
for dtype, zero_bits in (("*fp32", 0), ("*fp16", 13), ("*bf16", 16)):
    types = [dtype, "i64", "i32", "*i32", "*fp32", "constexpr", "constexpr", "constexpr"]
    constants = {
        "BLOCK": module._BLOCK, "ZERO_BITS": zero_bits, "COLUMNS": len(TokenStatistic)
    }
    source = ASTSource(kernel, dict(zip(kernel.arg_names, types, strict=True)), constants)
    target = GPUTarget("cuda", 90, 32)
    compiled = compile(source, target=target, options={"num_warps": module._NUM_WARPS})
    assert ".target sm_90" in compiled.asm["ptx"]
    print(dtype, len(compiled.asm["cubin"]))
"""


def test_the_kernel_compiles_for_hopper(tmp_path: Path) -> None:
    # vLLM hides Triton where no backend is active. The stub is one; a GPU has its own.
    stub = [] if HAS_CUDA else [str(TRITON_CPU)]
    path = os.pathsep.join([*stub, str(ROOT)])
    environ = {**os.environ, "PYTHONPATH": path, "TRITON_CACHE_DIR": str(tmp_path)}
    environ.pop("TRITON_INTERPRET", None)
    done = subprocess.run(
        [sys.executable, "-c", COMPILE], env=environ, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-10_000:]
    sizes = dict(line.split() for line in done.stdout.splitlines() if line.startswith("*"))
    assert sizes.keys() == {"*fp32", "*fp16", "*bf16"}
    assert min(map(int, sizes.values())) > 0
