"""What one trace's token confidences say of it (DeepConf, arXiv 2508.15260, section 3).

The definitions are those of DeepConf's code (`deepconf/utils.py`, commit 675529d), without its
rounding to three decimals. They are others than those of `stats.confidence.confidence_summary`,
which has partial windows too and rounds the tenth up.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from conf_server.stats.confidence import sliding_mean
from conf_server.stats.early_stop import window_mean

Floats = NDArray[np.float64]

WINDOW: Final = 2048
"""Tokens of a window, and of a tail, in DeepConf's votes."""

_ONE_IN: Final = 10
"""One full window in so many is among the lowest, `bottom_window_conf`."""
_NEGATIVE_BY_ROUNDING: Final = -1e-3


@dataclass(frozen=True)
class TraceScores:
    """How sure a model was of a trace. In nats; higher is surer.

    A score is None where there is nothing to compute it from, and finite otherwise. DeepConf's
    code has 0 there.

    Attributes:
        num_tokens: tokens of the trace, those without a finite confidence too.
        mean_conf: mean token confidence.
        tail_conf: mean token confidence of the last tokens.
        bottom_window_conf: mean of the lowest tenth of the full windows' means, of
            max(1, floor(m / 10)) among m windows.
        min_conf: the lowest mean of a full window. It is what an early stop looks at.
        certainty: mean of the tokens' KL(uniform || p), at least 0 (arXiv 2502.18581).

    Raises:
        ValueError: a score is NaN or infinite.
    """

    num_tokens: int
    mean_conf: float | None
    tail_conf: float | None
    bottom_window_conf: float | None
    min_conf: float | None
    certainty: float | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None and not math.isfinite(value):
                raise ValueError(f"{field.name} must be finite or None, got {value}")


def trace_scores(
    confidence: ArrayLike,
    certainties: ArrayLike | None = None,
    window: int = WINDOW,
    tail: int | None = None,
) -> TraceScores:
    """The scores of a finished trace.

    Tokens without a finite value are left out before windows are laid, as early stopping does.
    A trace with fewer tokens than a window has one window, which is all of it.

    `min_conf` agrees with early stopping: where a trace has a full window, an early stop at
    `below` with the same window (and `min_tokens` no larger) would have ended it if and only if
    `min_conf < below`; only a trace whose first low window is its last one has ended by itself.
    The windows are compared exactly, and the mean is `window_mean`'s.

    Args:
        confidence: (n,) token confidences in nats, any n.
        certainties: (n,) KL(uniform || p) of each token in nats, higher is surer. The
            metric `self_certainty` of this server has the other sign.
        window: length of a window in tokens, at least 1.
        tail: how many tokens are the tail, at least 1; `window` by default. DeepConf's code has
            2048 for both.

    Raises:
        ValueError: `window` or `tail` is below 1, or the self-certainty is negative, which it
            cannot be: the tokens have the other sign.
    """
    tail = window if tail is None else tail
    if window < 1 or tail < 1:
        raise ValueError(f"window and tail must be at least 1, got {window} and {tail}")
    values = np.asarray(confidence, dtype=np.float64)
    finite = values[np.isfinite(values)]
    certainty = _mean_certainty(certainties)
    if finite.size == 0:
        return TraceScores(values.size, None, None, None, None, certainty)
    window = min(window, finite.size)
    means = sliding_mean(finite, window)[window - 1 :]
    lowest = window_mean(_lowest_window(finite, window, means))
    return TraceScores(
        num_tokens=values.size,
        mean_conf=window_mean(finite),
        tail_conf=window_mean(finite[-tail:]),
        bottom_window_conf=_bottom_window_conf(means, lowest),
        min_conf=lowest,
        certainty=certainty,
    )


def _lowest_window(values: Floats, window: int, means: Floats) -> Floats:
    """The full window with the smallest sum, the first of several.

    Sums of floats are rounded, and those of many windows can be closer to each other than that.
    Every float is a whole number of some power of two, so Python's integers add them exactly.
    That is done where the rounded `means` leave a doubt: in real traces, over little more than one
    window.
    """
    rounding = 4 * values.size * np.finfo(np.float64).eps * np.abs(values).sum() / window
    near = np.flatnonzero(means <= means.min() + rounding)
    span = values[near[0] : near[-1] + window]
    fraction, exponent = np.frexp(span)
    whole = np.ldexp(fraction, 53).astype(np.int64).astype(object)
    whole = whole << (exponent - exponent.min()).astype(object)
    prefix = np.concatenate(([0], np.cumsum(whole)))
    start = int(np.argmin(prefix[window:] - prefix[:-window]))
    return span[start : start + window]


def _bottom_window_conf(means: Floats, lowest: float) -> float:
    """Mean of the lowest tenth of the full windows' means. `lowest` is the lowest of them."""
    count = means.size // _ONE_IN
    if count <= 1:
        return lowest
    # Rounding may carry the mean of equal windows below each of them.
    return max(lowest, float(np.partition(means, count - 1)[:count].mean()))


def _mean_certainty(tokens: ArrayLike | None) -> float | None:
    values = np.asarray([] if tokens is None else tokens, dtype=np.float64)
    values = values[np.isfinite(values)]
    if values.size == 0:
        return None
    mean = window_mean(values)
    if mean < _NEGATIVE_BY_ROUNDING:
        raise ValueError(f"self-certainty is never negative, got {mean}")
    return mean
