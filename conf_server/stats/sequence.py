"""Sums and means of token log-probabilities, and the part of the entropy that a top k holds.

Logarithms are natural. A token without a log-probability (NaN: nothing stood before it) is left
out. A sequence of which no token is left has no value (None).
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray


def top_k_entropy(top_logprobs: ArrayLike, k: int) -> NDArray[np.float64]:
    """Entropy terms of the k likeliest candidates: -sum_{j<=k} p_j log p_j, in nats.

    It is a lower bound of the distribution's entropy and not the entropy, so it has to be shown
    with `"exact": false`.

    Args:
        top_logprobs: (n, w) log-probabilities, rows in descending order, w >= k.

    Returns:
        (n,) float64; NaN where a candidate's log-probability is NaN. A candidate of
        probability zero adds nothing.

    Raises:
        ValueError: the rows are narrower than k.
    """
    logp = np.asarray(top_logprobs, dtype=np.float64)[:, :k]
    if not 1 <= k <= logp.shape[1]:
        raise ValueError(f"k must lie between 1 and the row width {logp.shape[1]}, got {k}")
    terms = np.where(np.isneginf(logp), 0.0, np.exp(logp) * np.where(np.isneginf(logp), 0.0, logp))
    return 0.0 - terms.sum(axis=1)  # 0.0 -: no negative zero


def _present(values: ArrayLike) -> NDArray[np.float64]:
    x = np.asarray(values, dtype=np.float64)
    return x[~np.isnan(x)]


def sum_logprob(logprobs: ArrayLike) -> float | None:
    """Sum of the tokens' log-probabilities: the log-probability of the sequence, in nats."""
    x = _present(logprobs)
    return float(x.sum()) if x.size else None


def mean_logprob(logprobs: ArrayLike) -> float | None:
    """Mean log-probability of a token, in nats."""
    x = _present(logprobs)
    return float(x.mean()) if x.size else None


def perplexity(logprobs: ArrayLike) -> float | None:
    """exp of minus the mean token log-probability; at least 1.

    Infinite where a token has no probability, and where the mean is below -709 nats.
    """
    mean = mean_logprob(logprobs)
    if mean is None:
        return None
    with np.errstate(over="ignore"):
        return float(np.exp(-mean))
