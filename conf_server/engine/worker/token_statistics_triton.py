# mypy: disallow-untyped-defs=False
# ruff: noqa: N803
"""Exact token statistics on CUDA: one Triton kernel, with one program for each row.

A row is read twice, the second time mostly from the L2 cache. The first pass divides the row into
BLOCK interleaved lanes and keeps the three largest logits of each lane. The second pass sums the
powers of p.

The row's k largest logits are among those kept, unless some lane's third is above the k-th of
them. That happens in about k^3 / (6 BLOCK^2) of the rows, 7 in 100,000 for k = 20. In these rows a
binary search over the whole row finds the k-th. So any k works, the host need not know k, and
nothing waits for the device. The dominant tokens are found in the same way: among the logits
kept, or in the whole row if some lane may have more of them.

This module can be imported without Triton, because vLLM then provides placeholders.
"""

import math
from typing import Final

import torch
from torch import Tensor
from vllm.triton_utils import HAS_TRITON, tl, triton

from conf_server.stats.columns import MAX_DOMINANT, MIN_DROP, MIN_LOG_DROP, TokenStatistic

_BLOCK: Final = 4096
_NUM_WARPS: Final = 16

_MIN_DROP = tl.constexpr(MIN_DROP)
_LOG_MIN_DROP = tl.constexpr(math.log(MIN_DROP))
_MIN_LOG_DROP = tl.constexpr(MIN_LOG_DROP)
_MAX_DOMINANT = tl.constexpr(MAX_DOMINANT + 1)  # rounding may let one more in

# How many trailing bits are zero in every float32 that was converted from this type.
_ZERO_BITS: Final = {torch.float32: 0, torch.float16: 13, torch.bfloat16: 16}


def is_available() -> bool:
    """Whether Triton is installed and finds a driver on this machine."""
    return HAS_TRITON


def statistics(logits: Tensor, top_k: Tensor, block: int = _BLOCK) -> Tensor:
    """`token_statistics` on a Triton device.

    Args:
        logits: (n, V) float32, bfloat16 or float16. They are copied unless each row is dense.
        top_k: (n,) int32 on the same device.
        block: how many logits are handled at a time, a power of two.

    Returns:
        (n, len(TokenStatistic)) float32.
    """
    if logits.stride(1) != 1:
        logits = logits.contiguous()
    n, size = logits.shape
    out = torch.empty((n, len(TokenStatistic)), dtype=torch.float32, device=logits.device)
    _token_statistics[(n,)](
        logits,
        logits.stride(0),
        size,
        top_k,
        out,
        BLOCK=block,
        ZERO_BITS=_ZERO_BITS[logits.dtype],
        COLUMNS=len(TokenStatistic),
        num_warps=_NUM_WARPS,
    )
    return out


@triton.jit
def _token_statistics(
    logits,
    row_stride,
    size,
    top_k,
    out,
    BLOCK: tl.constexpr,
    ZERO_BITS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Fill one row of `out`. The columns stand in the order of `TokenStatistic`."""
    n = tl.program_id(0).to(tl.int64)
    row = logits + n * row_stride
    out += n * COLUMNS
    first, second, third = _three_largest(row, size, BLOCK)
    best = tl.max(first, 0)
    log_z, entropy, mean, half, quarter = _whole_row(row, size, best, BLOCK)

    k = tl.load(top_k + n)
    is_k = (k >= 1) & (k <= size)
    mean_best = _mean_of_largest(
        row, size, tl.where(is_k, k, 1), best, first, second, third, BLOCK, ZERO_BITS
    )
    lane = tl.argmax(first, 0)
    runner_up = tl.max(tl.where(tl.arange(0, BLOCK) == lane, second, first), 0)

    tl.store(out, tl.where(is_k, log_z - mean_best, float("nan")))
    tl.store(out + 1, entropy)
    tl.store(out + 2, mean)
    tl.store(out + 3, half)
    tl.store(out + 4, quarter)
    tl.store(out + 5, 0.0 - log_z)
    tl.store(out + 6, runner_up - best - log_z)

    mass, least = _dominant(row, size, best, log_z, first, second, third, BLOCK)
    tl.store(out + 7, mass)
    tl.store(out + 8, least)


@triton.jit
def _load(row, size, start, BLOCK: tl.constexpr):
    """The logits from `start` on as (BLOCK,) float32, with -inf past the end of the row."""
    index = start + tl.arange(0, BLOCK)
    return tl.load(row + index, mask=index < size, other=float("-inf")).to(tl.float32)


@triton.jit
def _three_largest(row, size, BLOCK: tl.constexpr):
    """The three largest logits of each lane. A lane is every BLOCK-th logit of the row."""
    first = tl.full([BLOCK], float("-inf"), tl.float32)
    second = first
    third = first
    for start in range(0, size, BLOCK):
        x = _load(row, size, start, BLOCK)
        below_first = tl.minimum(first, x)
        first = tl.maximum(first, x)
        below_second = tl.minimum(second, below_first)
        second = tl.maximum(second, below_first)
        third = tl.maximum(third, below_second)
    return first, second, third


@triton.jit
def _whole_row(row, size, best, BLOCK: tl.constexpr):
    """log Z, entropy, mean log p, log sum p^(1/2), log sum p^(1/4); Z = sum exp(x - best)."""
    totals = tl.zeros([BLOCK], tl.float32)
    quarters = totals
    halves = totals
    weights = totals
    weighted = totals
    for start in range(0, size, BLOCK):
        shifted = _load(row, size, start, BLOCK) - best
        quarter = tl.exp(shifted * 0.25)
        half = quarter * quarter
        weight = half * half
        quarters += quarter
        halves += half
        weights += weight
        weighted += weight * tl.maximum(shifted, -3e38)  # where p = 0, 0 * -inf would be NaN
        totals += tl.where(start + tl.arange(0, BLOCK) < size, shifted, 0.0)
    z = tl.sum(weights, 0)
    log_z = tl.log(z)
    entropy = log_z - tl.sum(weighted, 0) / z
    mean = tl.sum(totals, 0) / size - log_z
    half = tl.log(tl.sum(halves, 0)) - log_z / 2
    quarter = tl.log(tl.sum(quarters, 0)) - log_z / 4
    return log_z, entropy, mean, half, quarter


@triton.jit
def _key(x, ZERO_BITS: tl.constexpr):
    """An int32 that sorts like the float32, without the bits that are the same in all."""
    bits = x.to(tl.int32, bitcast=True)
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)) >> ZERO_BITS


@triton.jit
def _above(x, key, best, ZERO_BITS: tl.constexpr):
    """Three vectors over the logits x.

    x - best where x is above `key`, else 0; 1 where x is above `key`, else 0; and x where x is
    not below `key`, else inf.
    """
    keys = _key(x, ZERO_BITS)
    is_above = keys > key
    at_least = tl.where(keys >= key, x, float("inf"))
    return tl.where(is_above, x - best, 0.0), is_above.to(tl.int32), at_least


@triton.jit
def _mean_of_largest(
    row,
    size,
    k,
    best,
    first,
    second,
    third,
    BLOCK: tl.constexpr,
    ZERO_BITS: tl.constexpr,
):
    """The mean of the row's k largest logits, less `best`.

    They are all logits above the k-th largest, and as many copies of that one as it takes.
    """
    key_1 = _key(first, ZERO_BITS)
    key_2 = _key(second, ZERO_BITS)
    key_3 = _key(third, ZERO_BITS)
    low = tl.full([], -0x7F800001 >> ZERO_BITS, tl.int64)  # the key of -inf
    high = _key(best, ZERO_BITS).to(tl.int64)
    while low < high:
        middle = low + (high - low + 1) // 2
        key = middle.to(tl.int32)
        reached = (key_1 >= key).to(tl.int32) + (key_2 >= key) + (key_3 >= key)
        enough = tl.sum(reached, 0) >= k
        low = tl.where(enough, middle, low)
        high = tl.where(enough, high, middle - 1)

    key = low.to(tl.int32)
    sums, counts, kth = _above(first, key, best, ZERO_BITS)
    sums_2, counts_2, kth_2 = _above(second, key, best, ZERO_BITS)
    sums_3, counts_3, kth_3 = _above(third, key, best, ZERO_BITS)
    sums += sums_2 + sums_3
    counts += counts_2 + counts_3
    kth = tl.minimum(kth, tl.minimum(kth_2, kth_3))
    if tl.max(key_3, 0) > key:
        sums, counts, kth = _search_row(row, size, k, best, low, BLOCK, ZERO_BITS)
    copies = (k - tl.sum(counts, 0)).to(tl.float32)
    return (tl.sum(sums, 0) + copies * (tl.min(kth, 0) - best)) / k


@triton.jit
def _search_row(
    row,
    size,
    k,
    best,
    low,
    BLOCK: tl.constexpr,
    ZERO_BITS: tl.constexpr,
):
    """What `_above` returns, for the whole row and the key of its k-th largest logit.

    That key is at least `low`. The row is added up into vectors of (BLOCK,).
    """
    high = _key(best, ZERO_BITS).to(tl.int64)
    while low < high:
        middle = low + (high - low + 1) // 2
        reached = tl.zeros([BLOCK], tl.int32)
        for start in range(0, size, BLOCK):
            keys = _key(_load(row, size, start, BLOCK), ZERO_BITS)
            reached += (keys >= middle.to(tl.int32)).to(tl.int32)
        enough = tl.sum(reached, 0) >= k
        low = tl.where(enough, middle, low)
        high = tl.where(enough, high, middle - 1)

    sums = tl.zeros([BLOCK], tl.float32)
    counts = tl.zeros([BLOCK], tl.int32)
    kth = tl.full([BLOCK], float("inf"), tl.float32)
    for start in range(0, size, BLOCK):
        x = _load(row, size, start, BLOCK)
        above, count, at_least = _above(x, low.to(tl.int32), best, ZERO_BITS)
        sums += above
        counts += count
        kth = tl.minimum(kth, at_least)
    return sums, counts, kth


@triton.jit
def _dominant(row, size, best, log_z, first, second, third, BLOCK: tl.constexpr):
    """log of the dominant tokens' mass, and the smallest log p among them.

    The last dominant logit is the smallest that lies far enough above the next one. So the
    search climbs from the largest logit with p <= MIN_DROP, which no dominant one can be. Each
    step skips what lies within MIN_LOG_DROP above, since the next one is too near to that.
    All logits are less `best` here.
    """
    first -= best
    second -= best
    third -= best
    floor = log_z + _LOG_MIN_DROP
    has_all = tl.max(third, 0) <= floor  # else a lane may have more above the floor than it kept
    lower, upper = _around(row, size, best, floor, first, second, third, has_all, BLOCK)
    if size <= _MAX_DOMINANT:  # then all may lie above the floor, and nothing is next to the last
        lower = tl.maximum(lower, _smallest(row, size, BLOCK) - best)

    least = tl.full([], float("inf"), tl.float32)
    while (lower < 0) & (least == float("inf")):
        limit = lower + _MIN_LOG_DROP
        lower, upper = _around(row, size, best, limit, first, second, third, has_all, BLOCK)
        drop = tl.exp(upper - log_z) - tl.exp(lower - log_z)
        is_last = (upper - lower > _MIN_LOG_DROP) & (drop > _MIN_DROP)
        least = tl.where(is_last, upper, least)
        lower = tl.where(is_last, lower, upper)

    masses = _mass(first, least, log_z) + _mass(second, least, log_z) + _mass(third, least, log_z)
    if not has_all:
        masses = tl.zeros([BLOCK], tl.float32)
        for start in range(0, size, BLOCK):
            masses += _mass(_load(row, size, start, BLOCK) - best, least, log_z)
    is_distribution = log_z == log_z
    mass = tl.where(is_distribution, tl.log(tl.sum(masses, 0)), float("nan"))
    return mass, tl.where(is_distribution, least - log_z, float("nan"))


@triton.jit
def _around(row, size, best, limit, first, second, third, has_all, BLOCK: tl.constexpr):
    """The largest logit up to `limit`, or -inf, and the smallest above it, or inf."""
    lower = tl.maximum(_up_to(first, limit), _up_to(second, limit))
    lower = tl.maximum(lower, _up_to(third, limit))
    upper = tl.minimum(_above_limit(first, limit), _above_limit(second, limit))
    upper = tl.minimum(upper, _above_limit(third, limit))
    if not has_all:
        for start in range(0, size, BLOCK):
            x = _load(row, size, start, BLOCK) - best
            lower = tl.maximum(lower, _up_to(x, limit))
            upper = tl.minimum(upper, _above_limit(x, limit))
    return tl.max(lower, 0), tl.min(upper, 0)


@triton.jit
def _up_to(x, limit):
    return tl.where(x <= limit, x, float("-inf"))


@triton.jit
def _above_limit(x, limit):
    return tl.where(x > limit, x, float("inf"))


@triton.jit
def _mass(x, least, log_z):
    """p of the logits that are no smaller than `least`, 0 of the others."""
    return tl.where(x >= least, tl.exp(x - log_z), 0.0)


@triton.jit
def _smallest(row, size, BLOCK: tl.constexpr):
    """The row's smallest logit."""
    smallest = tl.full([BLOCK], float("inf"), tl.float32)
    for start in range(0, size, BLOCK):
        index = start + tl.arange(0, BLOCK)
        x = tl.load(row + index, mask=index < size, other=float("inf")).to(tl.float32)
        smallest = tl.minimum(smallest, x)
    return tl.min(smallest, 0)
