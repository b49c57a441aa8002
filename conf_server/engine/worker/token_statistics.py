"""Exact statistics of next-token distributions over the whole vocabulary, from raw logits.

For each row of logits there is a row of float32, the columns of `TokenStatistic`. They are computed
in every decoding step, so there is one exponential for each logit. With m the row's maximum:

    a = exp((x - m) / 4),  Z = sum a^4,  log p = x - m - log Z,  p^(1/4) = a / Z^(1/4)

There are three implementations, which agree within float32 rounding: a Triton kernel for CUDA
(`token_statistics_triton`), a numba kernel for the CPU, and torch for everything else.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from conf_server.stats.columns import (
    MAX_DOMINANT,
    MIN_DROP,
    MIN_RELATIVE_DROP,
    TokenStatistic,
)

try:
    from numba import njit  # type: ignore[import-untyped]
except ImportError:
    njit = None


_NUMBA_MAX_K: Final = 128  # keeping the k largest sorted costs k^2 steps at worst
_NUMBA_MIN_KEPT: Final = 8  # of the largest; in most rows they tell which tokens are dominant
_BLOCK: Final = 128  # logits that share one block maximum
_SUM_BLOCK: Final = 1024  # terms that are added in float32, before their sum goes into a float64


def token_statistics(logits: Tensor, top_k: Tensor | Sequence[int]) -> Tensor:
    """The statistics of the softmax of each row.

    A row's result does not depend on the other rows. Some results are not finite:
      - A logit of -inf means p = 0. Then MEAN_LOGPROB is -inf, and CONFIDENCE is inf if the
        token is among the k largest. All other columns are as if the token did not exist.
      - A row that holds NaN or +inf, or nothing but -inf, is not a distribution. All its
        columns are NaN.
      - If k lies outside 1..V, CONFIDENCE is NaN. The other columns do not depend on k.

    Args:
        logits: (n, V) float32, bfloat16 or float16, V >= 1; they are not changed.
        top_k: (n,) integers, how many log-probabilities each row's confidence averages.

    Returns:
        (n, len(TokenStatistic)) float32 on the logits' device, its columns in that order.
    """
    if logits.ndim != 2 or logits.shape[1] == 0:
        raise ValueError(f"logits must be (n, V) with V >= 1, got {tuple(logits.shape)}")
    if len(top_k) != len(logits):
        raise ValueError(f"{len(logits)} rows of logits, but {len(top_k)} values of top_k")
    if not len(logits):
        return logits.new_empty((0, len(TokenStatistic)), dtype=torch.float32)
    if logits.is_cuda and (kernel := _triton_kernel()):
        ks = torch.as_tensor(top_k, dtype=torch.int32, device=logits.device)
        return kernel(logits, ks)
    ks_list = top_k.tolist() if isinstance(top_k, Tensor) else list(top_k)
    if logits.device.type == "cpu" and njit is not None:
        return _statistics_numba(logits, ks_list)
    return statistics_torch(logits, ks_list)


def token_statistics_and_likeliest(logits: Tensor, top_k: Sequence[int]) -> tuple[Tensor, Tensor]:
    """`token_statistics`, and the (n,) int64 ids of the likeliest tokens.

    The ids are those of `logits.argmax(-1)`: of equal logits it is the first. The CPU's kernel
    finds them on the way, which spares greedy sampling from reading all logits once more.
    """
    if logits.device.type != "cpu" or njit is None or 0 in logits.shape:
        return token_statistics(logits, top_k), logits.argmax(-1)
    likeliest = torch.empty(len(logits), dtype=torch.int64)
    values = _statistics_numba(logits, list(top_k), likeliest)
    for i in (likeliest == _NO_LIKELIEST).nonzero().flatten().tolist():
        likeliest[i] = logits[i].argmax()
    return values, likeliest


def _triton_kernel() -> Callable[[Tensor, Tensor], Tensor] | None:
    """The fused kernel, or None where Triton is missing or has no driver on this machine."""
    from conf_server.engine.worker.token_statistics_triton import is_available, statistics

    return statistics if is_available() else None


def statistics_torch(logits: Tensor, top_k: Sequence[int]) -> Tensor:
    """`token_statistics` in torch, on any device, one row at a time so that it fits a cache."""
    out = logits.new_empty((len(logits), len(TokenStatistic)), dtype=torch.float32)
    for row, k, result in zip(logits, top_k, out, strict=True):
        torch.stack(_row_statistics(row.float(), k), out=result)
    return out


def _row_statistics(row: Tensor, k: int) -> list[Tensor]:
    """The columns of `TokenStatistic` for one float32 row, each a tensor without dimensions."""
    size = len(row)
    valid = 1 <= k <= size
    best = row.topk(min(max(k if valid else 1, MAX_DOMINANT + 1), size)).values
    shifted = row - best[0]
    best = best - best[0]
    mean = shifted.mean()
    quarter = torch.exp(shifted / 4)
    half = quarter * quarter
    weight = half * half
    z = weight.sum()
    log_z = z.log()
    # Where p is 0, 0 * -inf would be NaN. With the smallest float32 instead of -inf it is 0.
    shifted.clamp_(min=torch.finfo(torch.float32).min)
    return [
        log_z - best[:k].mean() if valid else torch.full_like(log_z, torch.nan),
        log_z - torch.dot(weight, shifted) / z,
        mean - log_z,
        half.sum().log() - log_z / 2,
        quarter.sum().log() - log_z / 4,
        best[0] - log_z,
        (best[1] if size > 1 else -torch.inf) - log_z,
        *_dominant_torch(best - log_z),
    ]


def _dominant_torch(best: Tensor) -> tuple[Tensor, Tensor]:
    """LOG_DOMINANT_MASS and DOMINANT_LOGPROB.

    Args:
        best: the row's largest log-probabilities, descending: all of them, or at least those
            with p > MIN_DROP and the next one.
    """
    p = best.exp()
    drop = p[:-1] - p[1:]
    index = torch.arange(len(p), device=p.device)
    is_last = (drop > MIN_DROP) & (drop > MIN_RELATIVE_DROP * p[:-1])
    count = torch.cat((index[:1], torch.where(is_last, index[1:], 0))).amax()
    dominant = index < count
    undefined = best[0] - best[0]  # 0, or NaN where there is no distribution
    mass = torch.where(dominant, p, 0).sum().log()
    return mass + undefined, torch.where(dominant, best, torch.inf).amin() + undefined


def _statistics_numba(
    logits: Tensor, top_k: Sequence[int], likeliest: Tensor | None = None
) -> Tensor:
    """`token_statistics` on the CPU, in the caller's thread.

    vLLM binds that thread to one core, and so would be all threads that it starts.

    Args:
        likeliest: (n,) int64, filled with the ids of the likeliest tokens, or with
            `_NO_LIKELIEST` in rows that are not a distribution.
    """
    if likeliest is None:
        likeliest = torch.empty(len(logits), dtype=torch.int64)
    ids = likeliest.numpy()
    out = torch.empty((len(logits), len(TokenStatistic)), dtype=torch.float32)
    rows = logits.detach()
    if rows.dtype == torch.float32 and rows.is_contiguous():
        _fill_rows(rows.numpy(), np.array(top_k, np.int64), out.numpy(), ids)
    else:
        scratch = torch.empty((1, rows.shape[1]), dtype=torch.float32)
        for i, k in enumerate(top_k):
            scratch.copy_(rows[i])
            here = slice(i, i + 1)
            _fill_rows(scratch.numpy(), np.array([k], np.int64), out[here].numpy(), ids[here])
    for i, k in enumerate(top_k):
        if _NUMBA_MAX_K < k <= rows.shape[1]:
            best = rows[i].float().topk(k).values
            out[i, TokenStatistic.CONFIDENCE] = (
                out[i, TokenStatistic.LOGPROB_1ST].neg() - (best - best[0]).mean()
            )
    return out


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` compiled to machine code, which is kept on disk where numba can write.

    The compiler may reorder sums and fuse multiplications with additions. NaN and infinities
    keep their meaning.
    """
    if njit is None:
        return function
    options: dict[str, Any] = {"error_model": "numpy", "fastmath": {"reassoc", "contract", "nsz"}}
    try:
        return njit(cache=True, **options)(function)
    except RuntimeError:
        return njit(**options)(function)


# Coefficients of a polynomial for 2^f, |f| <= 1/2, lowest power first. It interpolates at Chebyshev
# nodes and is exact to 2e-8 in float64.
_EXP2: Final = tuple(
    np.float32(c)
    for c in np.polynomial.Chebyshev.interpolate(np.exp2, 6, domain=[-0.5, 0.5])
    .convert(kind=np.polynomial.Polynomial)
    .coef
)
_C0, _C1, _C2, _C3, _C4, _C5, _C6 = _EXP2
_LOG2_E_QUARTER: Final = np.float32(math.log2(math.e) / 4)
_FOUR_LN_2: Final = 4 * math.log(2)
_MIN_EXPONENT: Final = np.float32(-126)  # 2^-126 is the smallest normal float32
_ZERO: Final[Any] = np.float32(0)
_SIGN: Final = np.int32(31)
_MAGNITUDE: Final = np.int32(0x7FFFFFFF)
_LOG_LEAST: Final = math.log(MIN_DROP) - 0.01  # lower than needed, for rounding
_NO_KEY: Final = np.int32(-0x80000000)
_NO_LIKELIEST: Final = -1


@_compiled
def _key(bits: Any) -> Any:
    """An int32 that sorts like the float32 with these bits, NaN outermost; its own inverse."""
    return np.int32(bits ^ ((bits >> _SIGN) & _MAGNITUDE))


@_compiled
def _exp2_sums(row: Any, largest: Any) -> Any:
    """float64 sums over a row of x - max, a, a^2, a^4 and a^4 log2 a; a = exp((x - max) / 4)."""
    total = quarters = halves = z = weighted = 0.0
    for start in range(0, row.size, _SUM_BLOCK):
        s0 = s1 = s2 = s3 = s4 = _ZERO
        block = row[start : start + _SUM_BLOCK]
        for i in range(block.size):
            shifted = block[i] - largest
            exponent = shifted * _LOG2_E_QUARTER
            exponent = exponent if exponent > _MIN_EXPONENT else _MIN_EXPONENT
            whole = np.rint(exponent)
            f = exponent - whole
            a = _C0 + f * (_C1 + f * (_C2 + f * (_C3 + f * (_C4 + f * (_C5 + f * _C6)))))
            a *= np.int32((np.int32(whole) + np.int32(127)) << np.int32(23)).view(np.float32)
            half = a * a
            weight = half * half
            s0 += shifted
            s1 += a
            s2 += half
            s3 += weight
            s4 += weight * exponent
        total += s0
        quarters += s1
        halves += s2
        z += s3
        weighted += s4
    return total, quarters, halves, z, weighted


@_compiled
def _insert(key: Any, top: Any) -> None:
    """Insert `key` into the descending `top`, which loses its last entry."""
    i = top.size - 1
    while i > 0 and top[i - 1] < key:
        top[i] = top[i - 1]
        i -= 1
    top[i] = key


@_compiled
def _block_maxima(bits: Any, maxima: Any) -> None:
    """Fill `maxima` with the largest key of each block of the row."""
    for block in range(maxima.size):
        largest = _NO_KEY
        part = bits[block * _BLOCK : (block + 1) * _BLOCK]
        for i in range(part.size):
            largest = max(largest, _key(part[i]))
        maxima[block] = largest


@_compiled
def _largest_keys(bits: Any, maxima: Any, top: Any) -> None:
    """Fill `top` with the row's largest keys, descending.

    First `top` is filled with the largest block maxima. The row has as many keys that are no
    smaller than the last of these, so no smaller key belongs into `top`. Only the few blocks
    whose maximum is larger have to be read again.
    """
    top[:] = _NO_KEY
    for block in range(maxima.size):
        if maxima[block] > top[-1]:
            _insert(maxima[block], top)
    top[:] = top[-1]
    for block in range(maxima.size):
        if maxima[block] > top[-1]:
            part = bits[block * _BLOCK : (block + 1) * _BLOCK]
            for i in range(part.size):
                key = _key(part[i])
                if key > top[-1]:
                    _insert(key, top)


@_compiled
def _first_of(row: Any, maxima: Any, largest: Any) -> Any:
    """The first index of the row's largest value; both zeros are the same."""
    for block in range(maxima.size):
        if np.int32(_key(maxima[block])).view(np.float32) == largest:
            for i in range(block * _BLOCK, min((block + 1) * _BLOCK, row.size)):
                if row[i] == largest:
                    return i
    return _NO_LIKELIEST


@_compiled
def _keys_above(bits: Any, maxima: Any, limit: Any, found: Any) -> Any:
    """Fill `found` with the row's keys above `limit`, descending, then the largest other key.

    Returns:
        How many entries of `found` have been filled.
    """
    count = 0
    below = _NO_KEY
    for block in range(maxima.size):
        if maxima[block] <= limit:
            below = max(below, maxima[block])
            continue
        part = bits[block * _BLOCK : (block + 1) * _BLOCK]
        for i in range(part.size):
            key = _key(part[i])
            if key <= limit:
                below = max(below, key)
            elif count < found.size - 1:
                count += 1
                _insert(key, found[:count])
    if count < bits.size:
        found[count] = below
        count += 1
    return count


@_compiled
def _floats(keys: Any) -> Any:
    """The float32 that these keys stand for, in the same memory."""
    for i in range(keys.size):
        keys[i] = _key(keys[i])
    return keys.view(np.float32)


@_compiled
def _dominant(best: Any, log_z: Any) -> Any:
    """LOG_DOMINANT_MASS and DOMINANT_LOGPROB: float64.

    Args:
        best: the row's largest logits, descending: all of them, or at least those with
            p > MIN_DROP and the next one.
        log_z: log of the sum of exp(x - best[0]).
    """
    mass = total = 0.0
    least = np.inf
    p = np.exp(0.0 - log_z)
    for i in range(best.size - 1):
        if p <= MIN_DROP:
            break
        total += p
        following = np.exp(np.float64(best[i + 1] - best[0]) - log_z)
        drop = p - following
        if drop > MIN_DROP and drop > MIN_RELATIVE_DROP * p:
            mass = total
            least = np.float64(best[i] - best[0]) - log_z
        p = following
    return np.log(mass), least


@_compiled
def _fill_rows(logits: Any, top_k: Any, out: Any, likeliest: Any) -> None:
    """Fill `out` and `likeliest` from (n, V) float32; CONFIDENCE is NaN where k > 128."""
    size = logits.shape[1]
    maxima = np.empty((size + _BLOCK - 1) // _BLOCK, np.int32)
    found = np.empty(2 * MAX_DOMINANT, np.int32)
    for n in range(logits.shape[0]):
        row = logits[n]
        bits = row.view(np.int32)
        k = top_k[n] if 1 <= top_k[n] <= min(size, _NUMBA_MAX_K) else 0
        _block_maxima(bits, maxima)
        keys = np.empty(min(max(k, _NUMBA_MIN_KEPT), size), np.int32)
        _largest_keys(bits, maxima, keys)
        best = _floats(keys)
        total, quarters, halves, z, weighted = _exp2_sums(row, best[0])
        log_z = np.log(z) if total == total else np.nan  # the sums of powers lose a NaN
        out[n, 0] = np.nan
        if k:
            out[n, 0] = log_z - (best[:k] - best[0]).astype(np.float64).sum() / k
        out[n, 1] = log_z - _FOUR_LN_2 * weighted / z
        out[n, 2] = total / size - log_z
        out[n, 3] = np.log(halves) - log_z / 2
        out[n, 4] = np.log(quarters) - log_z / 4
        out[n, 5] = 0.0 - log_z
        out[n, 6] = (best[1] - best[0] if size > 1 else -np.inf) - log_z
        out[n, 7] = out[n, 8] = np.nan
        likeliest[n] = _NO_LIKELIEST
        if log_z == log_z:
            likeliest[n] = _first_of(row, maxima, best[0])
            limit = np.float32(best[0] + log_z + _LOG_LEAST)
            if best.size < size and best[-1] > limit:
                key = _key(limit.view(np.int32)) - np.int32(1)  # large logits are far apart
                best = _floats(found[: _keys_above(bits, maxima, key, found)])
            out[n, 7], out[n, 8] = _dominant(best, log_z)
