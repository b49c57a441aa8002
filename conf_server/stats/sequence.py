"""Sequence-level statistics of token log-probabilities.

Names are lm-polygraph's, in snake_case. All are uncertainties: higher = more uncertain.
Natural logarithms. A token with no log-probability (NaN: nothing stood before it) is
left out; a sequence with no token left has no value (None).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


def top_k_entropy(top_logprobs: ArrayLike, k: int) -> NDArray[np.float64]:
    """Entropy terms of the k likeliest candidates: -sum_{j<=k} p_j log p_j, in nats.

    A lower bound of the distribution's entropy, not the entropy: whoever shows it
    says `"exact": false` beside it.

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
    """exp of minus the mean token log-probability; at least 1."""
    exponent = log_perplexity(logprobs)
    if exponent is None:
        return None
    with np.errstate(over="ignore"):  # a text beyond belief has an infinite one
        return float(np.exp(exponent))


def log_perplexity(logprobs: ArrayLike) -> float | None:
    """Minus the mean token log-probability, in nats: what lm-polygraph calls `Perplexity`."""
    mean = mean_logprob(logprobs)
    return None if mean is None else 0.0 - mean


def maximum_sequence_probability(logprobs: ArrayLike) -> float | None:
    """Minus the sequence's log-probability, in nats (lm-polygraph `MaximumSequenceProbability`)."""
    total = sum_logprob(logprobs)
    return None if total is None else 0.0 - total


def mean_token_entropy(entropies: ArrayLike) -> float | None:
    """Mean of the tokens' entropies, in nats (lm-polygraph `MeanTokenEntropy`)."""
    x = _present(entropies)
    return float(x.mean()) if x.size else None


def max_token_entropy(entropies: ArrayLike) -> float | None:
    """Largest of the tokens' entropies, in nats (lm-polygraph `MaxTokenEntropy`)."""
    x = _present(entropies)
    return float(x.max()) if x.size else None


@dataclass(frozen=True)
class Metric:
    """A sequence statistic: what it is computed from, and how."""

    needs: str
    """`logprob` or `entropy`: the per-token row it reduces."""
    compute: Callable[[ArrayLike], float | None]


METRICS: dict[str, Metric] = {
    "perplexity": Metric("logprob", log_perplexity),
    "maximum_sequence_probability": Metric("logprob", maximum_sequence_probability),
    "mean_token_entropy": Metric("entropy", mean_token_entropy),
    "max_token_entropy": Metric("entropy", max_token_entropy),
}
"""What `metrics` may name, and in which order it is answered by default."""
