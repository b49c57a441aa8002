"""The Triton kernel against the definitions in float64 and the torch implementation.

On a GPU it is compiled and runs there. Without one, Triton's interpreter runs it on the CPU. One
process answers every case of this file.
"""

import math
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from conf_server.engine.worker.token_statistics import statistics_torch
from conf_server.stats.columns import TokenStatistic
from tests.devices import TRITON_DEVICES, TritonDevice
from tests.unit.engine.test_token_statistics import decided, logits_of, reference

pytestmark = pytest.mark.skipif(
    find_spec("triton") is None, reason="needs Triton's interpreter; triton is not installed"
)

ROOT = Path(__file__).parents[2]
INF, NAN = math.inf, math.nan

RUN_CASES = """
import sys, torch
from conf_server.engine.worker.token_statistics_triton import is_available, statistics
assert is_available()
cases = torch.load(sys.argv[1], map_location=sys.argv[3])
results = {
    name: statistics(logits, torch.tensor(top_k, dtype=torch.int32).to(logits.device), block).cpu()
    for name, (logits, top_k, block) in cases.items()
}
torch.save(results, sys.argv[2])
"""

Case = tuple[Tensor, list[int], int]


def make_cases() -> dict[str, Case]:
    """Logits, top_k and block size. A small block makes lanes deep: more than three win in some."""
    torch.manual_seed(0)
    sharpness = torch.tensor([[0.0], [1], [4], [30]])
    noise = torch.randn(4, 1001) * sharpness
    top_k = [20, 1, 64, 2]
    extreme = torch.cat([noise[2:] + 1e4, noise[2:] - 1e4])
    ties = (noise[2:] * 2).round()
    masked = noise[1:].clone()
    masked[:, 100:] = -INF
    aligned = torch.zeros(3, 1024)
    aligned[0, ::128] = 5.0
    aligned[1, 128::128] = torch.arange(7.0)
    aligned[2, 3::128] = -1.0
    bad = noise[1].repeat(7, 1)
    bad[0, 7], bad[1, 1000], bad[2, 0], bad[3] = NAN, -NAN, INF, -INF
    bad[4] = NAN
    heads = [[0.9], [0.3, 0.29, 0.28, 0.05], [0.01] * 99, [0.0062] * 160, [], [0.4] * 2 + [0.0051]]
    dominant = torch.stack([logits_of(head, 1001) for head in heads])
    padded = torch.randn(3, 900)
    vocabulary = torch.randn(2, 128_256) * 3  # Llama 3's, in the blocks that the server uses
    cases: dict[str, Case] = {
        "one_block": (noise, top_k, 1024),
        "small_blocks": (noise, top_k, 256),
        "bfloat16": (noise.bfloat16(), top_k, 256),
        "float16": (noise.half(), top_k, 256),
        "bfloat16_small_blocks": (noise.bfloat16(), [200, 1001, 100, 20], 128),
        "large_k": (noise, [1001, 1000, 129, 500], 256),
        "extreme": (extreme, [20, 64] * 2, 512),
        "ties": (ties, [20, 64], 256),
        "ties_bfloat16": (ties.bfloat16(), [20, 64], 128),
        "masked": (masked, [20, 100, 101], 256),
        "winners_in_one_lane": (aligned, [20, 5, 8], 128),
        "dominant": (dominant, [20, 1, 5, 20, 20, 20], 1024),
        "dominant_small_blocks": (dominant, [20, 1, 5, 20, 20, 20], 64),
        "dominant_all": (torch.stack([logits_of([0.5, 0.3], 20), torch.zeros(20)]), [20, 1], 64),
        "tiny": (torch.tensor([[1.0, 2.0], [0.0, -INF]]), [2, 1], 64),
        "one_token": (torch.tensor([[3.0], [-7.0]]), [1, 2], 64),
        "no_such_k": (noise[:3], [0, 1002, -1], 1024),
        "no_distribution": (bad, [20, 20, 20, 20, 20, 0, 3], 512),
        "strided_rows": (padded[:, :800], [3, 4, 5], 512),
        "large_vocabulary": (vocabulary, [20, 20], 4096),
        "large_vocabulary_bfloat16": (vocabulary.bfloat16(), [20, 20], 4096),
        "column_major": (padded.t().contiguous().t(), [3, 4, 5], 512),
    }
    for i in range(4):
        cases[f"alone_{i}"] = (noise[i : i + 1], top_k[i : i + 1], 256)
    return cases


CASES = make_cases()


@pytest.fixture(scope="module", params=TRITON_DEVICES)
def results(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Tensor]:
    device: TritonDevice = request.param
    folder = tmp_path_factory.mktemp("triton")
    torch.save(CASES, folder / "cases.pt")
    done = subprocess.run(
        [sys.executable, "-c", RUN_CASES, folder / "cases.pt", folder / "results.pt", device.name],
        env=device.environment(),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-10_000:]
    return torch.load(folder / "results.pt")


@pytest.mark.parametrize("name", CASES)
def test_definitions(name: str, results: dict[str, Tensor]) -> None:
    logits, top_k, _ = CASES[name]
    result = results[name]
    assert result.dtype == torch.float32
    assert result.shape == (len(logits), len(TokenStatistic))
    close = {"atol": 1e-5, "rtol": 1e-6, "equal_nan": True}
    expected = reference(logits, top_k)
    assert_close(decided(result.double(), expected, logits), expected, **close)
    in_torch = statistics_torch(logits, top_k)
    assert_close(decided(result, in_torch, logits), in_torch, **close)


def test_a_row_does_not_depend_on_its_neighbours(results: dict[str, Tensor]) -> None:
    alone = torch.cat([results[f"alone_{i}"] for i in range(4)])
    assert torch.equal(results["small_blocks"], alone)


def test_import_without_triton() -> None:
    code = """
import sys
sys.modules["triton"] = None
from conf_server.engine.worker.token_statistics_triton import is_available
assert not is_available()
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=120)
