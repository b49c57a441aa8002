"""Exact token statistics against their definitions in float64: numba and torch alike."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from conf_server.engine.worker import token_statistics as module
from conf_server.engine.worker.token_statistics import (
    statistics_torch,
    token_statistics,
    token_statistics_and_likeliest,
)
from conf_server.stats.columns import TokenStatistic
from conf_server.stats.confidence import token_confidence

Statistics = Callable[[Tensor, Sequence[int]], Tensor]
both = pytest.mark.parametrize("statistics", [token_statistics, statistics_torch])

INF, NAN = math.inf, math.nan


DOMINANT = [TokenStatistic.LOG_DOMINANT_MASS, TokenStatistic.DOMINANT_LOGPROB]


def dominant(best: Tensor, scale: float = 1.0) -> list[float]:
    """LOG_DOMINANT_MASS and DOMINANT_LOGPROB of descending log p, with both thresholds scaled."""
    p = best.exp()
    drop = p[:-1] - p[1:]
    last = ((drop > 0.005 * scale) & (drop > 0.3 * scale * p[:-1])).nonzero().flatten()
    if not len(last):
        return [-INF, INF]
    count = int(last[-1]) + 1
    return [float(p[:count].sum().log()), float(best[count - 1])]


def is_undecided(logp: Tensor) -> bool:
    """Whether float32's rounding may decide which tokens are dominant."""
    best = logp.sort(descending=True).values
    return dominant(best, 1 - 1e-4) != dominant(best, 1 + 1e-4)


def decided(result: Tensor, expected: Tensor, logits: Tensor) -> Tensor:
    """`result`, where rounding decides which tokens are dominant as `expected` has it."""
    result = result.clone()
    for row, logp in enumerate(logits.double().log_softmax(-1)):
        if is_undecided(logp):
            result[row, DOMINANT] = expected[row, DOMINANT].to(result.dtype)
    return result


def reference(logits: Tensor, top_k: Sequence[int]) -> Tensor:
    """The definitions, word for word, in float64."""
    rows = []
    for logp, k in zip(logits.double().log_softmax(-1), top_k, strict=True):
        p = logp.exp()
        best = logp.sort(descending=True).values
        rows.append(
            [
                -best[:k].mean() if 1 <= k <= len(logp) else NAN,
                -torch.where(p == 0, 0, p * logp).sum(),
                logp.mean(),
                (logp / 2).logsumexp(0),
                (logp / 4).logsumexp(0),
                best[0],
                best[1] if len(logp) > 1 else -INF,
                *([NAN, NAN] if logp.isnan().any() else dominant(best)),
            ]
        )
    return torch.tensor(rows, dtype=torch.float64)


def assert_exact(statistics: Statistics, logits: Tensor, top_k: Sequence[int]) -> None:
    """Within 1e-5 of the definitions, relative to numbers above 10."""
    before = logits.clone()
    result = statistics(logits, top_k)
    assert result.dtype == torch.float32
    assert result.shape == (len(logits), len(TokenStatistic))
    expected = reference(logits, top_k)
    result = decided(result.double(), expected, logits)
    assert_close(result, expected, atol=1e-5, rtol=1e-6, equal_nan=True)
    assert_close(logits, before, atol=0, rtol=0, equal_nan=True)


@st.composite
def problems(draw: st.DrawFn) -> tuple[Tensor, list[int]]:
    """Rows of every sharpness, with ties, masked tokens and any k."""
    size = draw(st.sampled_from([1, 2, 3, 20, 127, 128, 129, 500, 1024, 1025, 5000]))
    rows = draw(st.integers(1, 4))
    noise = np.random.default_rng(draw(st.integers(0, 2**32))).standard_normal((rows, size))
    scale = draw(st.sampled_from([0.0, 1e-3, 1.0, 4.0, 30.0, 3e3]))
    logits = torch.from_numpy(noise * scale + draw(st.sampled_from([0.0, -1e4, 17.0, 1e4]))).float()
    if draw(st.booleans()):
        logits = logits.round()
    if draw(st.booleans()):
        logits[:, draw(st.integers(0, size - 1))] += 1e4
    if size > 1 and draw(st.booleans()):
        logits[:, draw(st.integers(1, size - 1)) :] = -INF
    top_k = draw(st.lists(st.integers(0, size + 1), min_size=rows, max_size=rows))
    dtype = draw(st.sampled_from([torch.float32, torch.bfloat16, torch.float16]))
    return logits.to(dtype).clamp(max=6e4), top_k


@both
@settings(max_examples=200)
@given(problem=problems())
def test_definitions(statistics: Statistics, problem: tuple[Tensor, list[int]]) -> None:
    assert_exact(statistics, *problem)


@both
@pytest.mark.parametrize("size", [49_152, 128_256])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_real_vocabularies(statistics: Statistics, size: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    logits = torch.randn(6, size) * torch.tensor([[0.01], [1], [3], [6], [0], [20]])
    top_k = [20, 1, 128, 129, size, 5]
    assert_exact(statistics, logits.to(dtype), top_k)


@both
def test_blocks_full_of_the_largest(statistics: Statistics) -> None:
    """Every order in which the k largest can lie among block maxima."""
    size = 3000
    rising = torch.arange(size).float() / 100
    clustered = torch.zeros(size)
    clustered[256:384] = torch.arange(128).flip(0) / 10.0
    spread = torch.zeros(size)
    spread[::128] = 5.0
    logits = torch.stack([rising, rising.flip(0), clustered, spread, -spread])
    for k in (1, 2, 20, 64, 100, 128, 130, size):
        assert_exact(statistics, logits, [k] * len(logits))


@both
def test_confidence_is_that_of_the_top_k_path(statistics: Statistics) -> None:
    torch.manual_seed(1)
    logits = torch.randn(5, 2000) * 4
    best = logits.double().log_softmax(-1).topk(20).values
    confidence = statistics(logits, [20] * 5)[:, TokenStatistic.CONFIDENCE]
    np.testing.assert_allclose(confidence, token_confidence(best.numpy(), 20), atol=1e-5)


@both
def test_lm_polygraph_estimators(statistics: Statistics) -> None:
    """RenyiNeg and FisherRao as lm-polygraph 0.7.0 computes them by default."""
    torch.manual_seed(2)
    logp = (torch.randn(4, 1500).double() * 3).log_softmax(-1)
    row = statistics(logp.float(), [1] * 4).double()
    h, q = row[:, TokenStatistic.LOG_SUM_P_HALF], row[:, TokenStatistic.LOG_SUM_P_QUARTER]
    log_v = math.log(1500)

    s = (logp / 2).softmax(-1)
    renyi = ((s**0.5).sum(-1).log() + 0.5 * log_v) / -0.5
    fisher = 2 / math.pi * (s.sqrt().sum(-1) / math.sqrt(1500)).acos()
    certainty = -logp.mean(-1) - log_v

    assert_close(h - 2 * q - log_v, renyi, atol=1e-5, rtol=0)
    assert_close(2 / math.pi * (q - h / 2 - log_v / 2).exp().acos(), fisher, atol=1e-5, rtol=0)
    assert_close(-row[:, TokenStatistic.MEAN_LOGPROB] - log_v, certainty, atol=1e-5, rtol=0)


def logits_of(p: Sequence[float], size: int = 2000) -> Tensor:
    """A row that begins with these probabilities; the others share the rest."""
    rest = (1 - sum(p)) / (size - len(p))
    return torch.tensor([*p, *[rest] * (size - len(p))], dtype=torch.float64).log().float()


@both
@pytest.mark.parametrize(
    ("row", "count"),
    [
        (logits_of([0.9]), 1),
        (logits_of([0.3, 0.29, 0.28, 0.05]), 4),  # 0.05 falls to almost nothing
        (logits_of([0.3, 0.29, 0.28, 0.005]), 3),  # where 0.005 does not count
        (logits_of([0.4, 0.2, 0.15, 0.11, 0.08, 0.0058]), 6),
        (logits_of([0.4, 0.2, 0.15, 0.11, 0.08, 0.00502]), 5),  # its fall is below 0.005
        (logits_of([0.01] * 99), 99),  # ties, more than the top k holds
        (logits_of([0.0062] * 160), 160),
        (logits_of([0.2 * 0.75**i for i in range(12)]), 12),
        (logits_of([]), 0),  # flat
        (torch.zeros(7), 0),
        (torch.zeros(1), 0),
        (torch.tensor([0.0, -INF]), 1),
        (torch.tensor([0.0] * 150 + [-INF] * 50), 150),
        (torch.tensor([3.0, 2.9]), 0),
        (torch.tensor([3.0, 0.0]), 1),
    ],
)
def test_dominant_tokens(statistics: Statistics, row: Tensor, count: int) -> None:
    shuffled = row[torch.randperm(len(row), generator=torch.Generator().manual_seed(0))]
    logp = row.double().log_softmax(0)
    for k in (1, 20, len(row)):
        mass, least = statistics(shuffled[None], [k])[0, DOMINANT].tolist()
        if count:
            expected = [float(logp[:count].exp().sum().log()), float(logp[count - 1])]
        else:
            expected = [-INF, INF]
        assert [mass, least] == pytest.approx(expected, abs=1e-5)


@both
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_without_a_distribution(statistics: Statistics, dtype: torch.dtype) -> None:
    good = torch.linspace(-5, 5, 300)
    bad = [good.clone() for _ in range(5)]
    bad[0][7] = NAN
    bad[1][7] = -NAN
    bad[2][299] = INF
    bad[3][:] = -INF
    bad[4][:] = NAN
    alone = statistics(good[None].to(dtype), [3])
    result = statistics(torch.stack([bad[0], good, *bad[1:]]).to(dtype), [3, 3, 3, 300, 1, 0])
    assert torch.equal(result[1:2], alone)
    assert result[[0, 2, 3, 4, 5]].isnan().all()


@both
def test_masked_tokens(statistics: Statistics) -> None:
    logits = torch.tensor([[1.0, -INF, 1.0, -INF], [-INF, 3.0, -INF, -INF]])
    two, one = statistics(logits, [2, 2]).tolist()
    log_2 = math.log(2)
    expected = [log_2, log_2, -INF, log_2 / 2, log_2 * 3 / 4, -log_2, -log_2, 0, -log_2]
    assert two == pytest.approx(expected, abs=1e-6)
    assert one == [INF, 0, -INF, 0, 0, 0, -INF, 0, 0]


@both
def test_a_row_does_not_depend_on_its_neighbours(statistics: Statistics) -> None:
    torch.manual_seed(3)
    logits = torch.randn(9, 4097) * 3
    top_k = [1, 5, 20, 4097, 200, 64, 0, 2, 20]
    together = statistics(logits, top_k)
    alone = torch.cat([statistics(logits[i : i + 1], top_k[i : i + 1]) for i in range(9)])
    assert_close(together, alone, atol=0, rtol=0, equal_nan=True)


@both
def test_any_layout(statistics: Statistics) -> None:
    logits = torch.randn(6, 700)
    expected = statistics(logits[:, :650].contiguous(), [4] * 6)
    assert torch.equal(statistics(logits[:, :650], [4] * 6), expected)
    columns_first = logits[:, :650].t().contiguous().t()
    assert torch.equal(statistics(columns_first, [4] * 6), expected)


def test_top_k_as_a_tensor_and_no_rows() -> None:
    logits = torch.randn(2, 50, requires_grad=True)
    expected = token_statistics(logits, [3, 7])
    assert torch.equal(token_statistics(logits, torch.tensor([3, 7], dtype=torch.int32)), expected)
    assert token_statistics(torch.empty(0, 50), []).shape == (0, len(TokenStatistic))


def assert_likeliest(logits: Tensor, top_k: Sequence[int]) -> None:
    values, likeliest = token_statistics_and_likeliest(logits, top_k)
    assert torch.equal(likeliest, logits.argmax(-1))
    assert_close(values, token_statistics(logits, top_k), atol=0, rtol=0, equal_nan=True)


@settings(max_examples=200)
@given(problem=problems())
def test_the_likeliest_token_is_argmax(problem: tuple[Tensor, list[int]]) -> None:
    assert_likeliest(*problem)


def test_the_likeliest_of_zeros_and_of_rows_without_a_distribution(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    logits = torch.full((6, 300), -1.0)
    logits[0, [140, 299]] = torch.tensor([-0.0, 0.0])
    logits[1, [140, 299]] = torch.tensor([0.0, -0.0])
    logits[2, [140, 299]] = NAN
    logits[3, 140] = INF
    logits[4] = -INF
    assert_likeliest(logits, [3] * 6)
    assert_likeliest(logits[:0], [])
    monkeypatch.setattr(module, "njit", None)
    assert_likeliest(logits, [3] * 6)


def test_without_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = torch.randn(2, 50)
    monkeypatch.setattr(module, "njit", None)
    assert torch.equal(token_statistics(logits, [3, 7]), statistics_torch(logits, [3, 7]))


@pytest.mark.parametrize(("shape", "top_k"), [((3,), [1] * 3), ((2, 0), [1, 1]), ((2, 5), [1])])
def test_misuse(shape: tuple[int, ...], top_k: list[int]) -> None:
    with pytest.raises(ValueError, match="logits"):
        token_statistics(torch.zeros(shape), top_k)
