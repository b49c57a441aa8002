"""Uncertainty of one answer from its tokens' statistics, by lm-polygraph's names.

A metric has a value for each token and one for the whole answer. The value of a token is that of
an answer which consists of it alone. Higher = more uncertain, for every metric. Logarithms are
natural. A token without a log-probability (NaN: nothing stood before it) is left out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from conf_server.stats.columns import MIN_LOG_DROP, TokenStatistic
from conf_server.stats.sequence import perplexity, sum_logprob, top_k_entropy
from conf_server.stats.trace import TraceRows

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Metric:
    """How a metric of the engine's statistics is computed.

    Attributes:
        tokens: (log-probabilities (n,), statistics (n, s), log V) -> (n,), one value a token.
        reduce: (m,) -> the answer's value, from the values of its m >= 1 tokens.
    """

    tokens: Callable[[Floats, Floats, float], Floats]
    reduce: Callable[[Floats], np.floating]


@dataclass(frozen=True)
class MetricValues:
    """A metric of one answer.

    Attributes:
        tokens: (n,) one value a token, NaN where the token has none. A token to which the model
            gives no probability has an infinite one.
        value: that of the whole answer, which may be infinite too; None where no token has one.
        exact: False where the metric is computed from less than the whole vocabulary. Where it
            cannot be computed from less at all, `tokens` are all NaN and `value` is None.
    """

    tokens: Floats
    value: float | None
    exact: bool


def _column(column: TokenStatistic) -> Callable[[Floats, Floats, float], Floats]:
    return lambda _logprobs, statistics, _log_v: statistics[:, column]


def _self_certainty(_logprobs: Floats, statistics: Floats, log_v: float) -> Floats:
    """(1/V) sum log p + log V: minus KL(flat || p), at most 0 (arXiv 2502.18581)."""
    return statistics[:, TokenStatistic.MEAN_LOGPROB] + log_v


def _log_sum_root(statistics: Floats) -> Floats:
    """log sum q^(1/2), where q = softmax(log p / 2) is p at temperature 2."""
    half = statistics[:, TokenStatistic.LOG_SUM_P_HALF]
    return statistics[:, TokenStatistic.LOG_SUM_P_QUARTER] - half / 2


def _renyi_neg(_logprobs: Floats, statistics: Floats, log_v: float) -> Floats:
    """Minus the Rényi divergence of order 1/2 between q and the flat distribution, in nats.

    q is p at temperature 2. -D = 2 log sum q^(1/2) - log V lies in [-log V, 0] and is 0 where the
    model's distribution is flat (arXiv 2212.09171). lm-polygraph's RenyiNeg returns
    D - 2 log V instead: its sign of the term with log V is wrong.
    """
    # Rounding may carry a flat distribution past 0.
    return np.minimum(2 * _log_sum_root(statistics) - log_v, 0.0)


def _fisher_rao(_logprobs: Floats, statistics: Floats, log_v: float) -> Floats:
    """Minus the Fisher-Rao distance between q and the flat distribution.

    q is p at temperature 2. -(2/pi) arccos sum (q/V)^(1/2) lies in [-1, 0] and is 0 where the
    model's distribution is flat (arXiv 2212.09171). lm-polygraph's FisherRao returns
    the distance itself.
    """
    cosine = np.exp(_log_sum_root(statistics) - log_v / 2)
    # Rounding may carry the cosine past 1, and 0.0 - makes no negative zero.
    return 0.0 - 2 / np.pi * np.arccos(np.minimum(cosine, 1.0))


def _probability_gap(_logprobs: Floats, statistics: Floats, _log_v: float) -> Floats:
    """1 - (p of the likeliest - p of the second): 1 where the model cannot choose."""
    first = np.exp(statistics[:, TokenStatistic.LOGPROB_1ST])
    return 1 - (first - np.exp(statistics[:, TokenStatistic.LOGPROB_2ND]))


def _boosted_prob(logprobs: Floats, statistics: Floats, _log_v: float) -> Floats:
    """Minus the boosted probability of the token, in [-1, 0] (EMNLP 2025, main 166).

    The tokens that stand out of the distribution share the sum of their probabilities, as any of
    them may be right; every other token has its own. See `TokenStatistic.LOG_DOMINANT_MASS`.
    """
    least = statistics[:, TokenStatistic.DOMINANT_LOGPROB] - MIN_LOG_DROP / 2
    mass = statistics[:, TokenStatistic.LOG_DOMINANT_MASS]
    return 0.0 - np.exp(np.where(logprobs >= least, mass, logprobs))


_ENTROPY = _column(TokenStatistic.ENTROPY)
_FROM_STATISTICS: dict[str, Metric] = {
    "mean_token_entropy": Metric(_ENTROPY, np.mean),
    "max_token_entropy": Metric(_ENTROPY, np.max),
    "self_certainty": Metric(_self_certainty, np.mean),
    "renyi_neg": Metric(_renyi_neg, np.mean),
    "fisher_rao": Metric(_fisher_rao, np.mean),
    "probability_gap": Metric(_probability_gap, np.mean),
    "boosted_prob_sequence": Metric(_boosted_prob, np.mean),
}


def _negative(logprobs: Floats) -> Floats:
    return 0.0 - logprobs  # 0.0 -: no negative zero


def _inverse_probability(logprobs: Floats) -> Floats:
    with np.errstate(over="ignore"):  # beyond 709 nats a float64 is infinite
        return np.exp(-logprobs)


def _negative_sum(logprobs: Floats) -> float | None:
    total = sum_logprob(logprobs)
    return None if total is None else 0.0 - total


@dataclass(frozen=True)
class LogprobMetric:
    """How a metric of the tokens' own log-probabilities is computed.

    Attributes:
        tokens: (n,) log-probabilities -> (n,) values.
        answer: (n,) log-probabilities -> the answer's value, None where all are NaN.
    """

    tokens: Callable[[Floats], Floats]
    answer: Callable[[Floats], float | None]


_FROM_LOGPROB: dict[str, LogprobMetric] = {
    "perplexity": LogprobMetric(_inverse_probability, perplexity),
    "maximum_sequence_probability": LogprobMetric(_negative, _negative_sum),
}
_FROM_TOP_K = ("mean_token_entropy", "max_token_entropy")

LOGPROB_METRICS = (*_FROM_LOGPROB, "boosted_prob_sequence")
"""Names of the metrics that read the tokens' own log-probabilities."""
METRICS = (*_FROM_LOGPROB, *_FROM_STATISTICS)
"""Names of all metrics: what the field `metrics` of a request may hold."""
TOP_K_METRICS = (*_FROM_LOGPROB, *_FROM_TOP_K)
"""Names of the metrics that have a value without the engine's statistics."""


def metric_values(rows: TraceRows, name: str, top_k: int, vocab_size: int) -> MetricValues:
    """A metric of an answer.

    Args:
        rows: of the answer's tokens.
        name: one of `METRICS`.
        top_k: how many candidates an inexact entropy is computed from.
        vocab_size: V.

    Raises:
        KeyError: no such metric.
    """
    exact = rows.statistics is not None
    logprobs = rows.logprobs.astype(np.float64)
    if name in _FROM_LOGPROB:
        of_logprobs = _FROM_LOGPROB[name]
        return MetricValues(of_logprobs.tokens(logprobs), of_logprobs.answer(logprobs), True)
    metric = _FROM_STATISTICS[name]
    if rows.statistics is not None:
        log_v = float(np.log(vocab_size))
        tokens = metric.tokens(logprobs, rows.statistics.astype(np.float64), log_v)
    elif name in _FROM_TOP_K:
        tokens = top_k_entropy(rows.candidate_logprobs, top_k)
    else:
        tokens = np.full(len(rows), np.nan)
    return MetricValues(tokens, _reduce(tokens, metric.reduce), exact)


def _reduce(tokens: Floats, reduce: Callable[[Floats], np.floating]) -> float | None:
    present = tokens[~np.isnan(tokens)]
    return float(reduce(present)) if present.size else None
