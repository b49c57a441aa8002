"""Token confidence and its sliding-window summary (DeepConf, arXiv 2508.15260).

Natural logarithms throughout; higher = more confident. Log-probabilities are the
model's own, before temperature, penalties and masks.
"""

from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

# (numerator, denominator): ceil of a float product can be one too many (0.07 * 100 is 7 + 1e-15).
_BOTTOM_FRACTIONS: Final = {"0.1": (1, 10), "0.5": (1, 2)}


def token_confidence(top_logprobs: ArrayLike, k: int) -> Floats:
    """Confidence of each token: minus the mean log-probability of its k likeliest candidates.

    DeepConf, section 2 ("token confidence"): C_t = -(1/k) * sum_{j<=k} log p_t(j).

    Args:
        top_logprobs: (n, w) log-probabilities in nats, each row in descending order;
            the sampled token counts only where it is among the k likeliest.
        k: how many candidates; 1 <= k <= w.

    Returns:
        (n,) float64 nats, not finite where a candidate's log-probability is not.

    Raises:
        ValueError: the rows are narrower than k. A mean over fewer candidates would be another
            quantity under the same name.
    """
    rows = np.asarray(top_logprobs)
    if rows.ndim != 2:
        raise ValueError(f"top_logprobs must have two dimensions, got {rows.ndim}")
    if not 1 <= k <= rows.shape[1]:
        raise ValueError(f"k must lie between 1 and the row width {rows.shape[1]}, got {k}")
    return 0.0 - rows[:, :k].mean(axis=1, dtype=np.float64)  # 0.0 -: no negative zero


def with_sampled_token(confidence: ArrayLike, logprobs: ArrayLike, k: int) -> Floats:
    """Confidence over the k likeliest candidates and the sampled token beside them.

    (k C - log p)/(k + 1), with C of `token_confidence` and p the sampled token's probability. It is
    what the vLLM plugin of PETS (github.com/ZDCSlab/PETS, arXiv 2602.16745) gives of vLLM's flat
    log-probabilities, whose row is the sampled token and then the k likeliest: a token that is
    among these counts twice. DeepConf does not add it.

    Args:
        confidence: (n,) nats, over k candidates.
        logprobs: (n,) the sampled tokens' log-probabilities in nats, of the same distribution.
        k: how many candidates.

    Returns:
        (n,) float64 nats, not finite where one of the two is not.
    """
    c, own = np.asarray(confidence, np.float64), np.asarray(logprobs, np.float64)
    return (k * c - own) / (k + 1)


def sliding_mean(values: ArrayLike, window: int) -> Floats:
    """The mean of `values` over max(0, t-window+1)..t, for every t.

    The first window-1 windows are partial, which is the rule of the summary's keys. Early
    stopping wants full windows only: these are the entries from window-1 on.

    Args:
        values: (n,) finite numbers.
        window: window length in tokens, at least 1.

    Returns:
        (n,) float64.
    """
    if window < 1:
        raise ValueError(f"window must be at least 1, got {window}")
    x = np.asarray(values, dtype=np.float64)
    prefix = np.concatenate(([0.0], np.cumsum(x)))
    end = np.arange(1, x.size + 1)
    start = np.maximum(end - window, 0)
    return (prefix[end] - prefix[start]) / (end - start)


def bottom_mean(values: ArrayLike, numerator: int, denominator: int) -> float:
    """Mean of the ceil(f*n) lowest of n values, f = numerator/denominator in (0, 1]."""
    x = np.asarray(values, dtype=np.float64)
    count = -(-x.size * numerator // denominator)
    return float(np.partition(x, count - 1)[:count].mean())


def confidence_summary(confidence: ArrayLike, window: int = 2048) -> dict[str, float | None]:
    """The five summary statistics of a trace's token confidences.

    Tokens without a finite confidence are left out before windows are laid.

    Args:
        confidence: (n,) token confidences in nats, any n.
        window: length W of the sliding window in tokens; it is part of the keys.

    Returns:
        `mean_confidence`, `tail_W_mean_conf`, `min_sliding_W_mean_conf`,
        `bottom_0.1_sliding_W_mean_conf`, `bottom_0.5_sliding_W_mean_conf`
        in this order; each is None where no token has a confidence.
    """
    keys = [
        "mean_confidence",
        f"tail_{window}_mean_conf",
        f"min_sliding_{window}_mean_conf",
        *(f"bottom_{name}_sliding_{window}_mean_conf" for name in _BOTTOM_FRACTIONS),
    ]
    x = np.asarray(confidence, dtype=np.float64)
    x = x[np.isfinite(x)]
    if x.size == 0:
        return dict.fromkeys(keys)
    sliding = sliding_mean(x, window)
    numbers = [
        float(x.mean()),
        float(x[-window:].mean()),
        float(sliding.min()),
        *(bottom_mean(sliding, *fraction) for fraction in _BOTTOM_FRACTIONS.values()),
    ]
    return dict(zip(keys, numbers, strict=True))
