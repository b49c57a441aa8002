"""Uncertainty of one answer from its tokens' statistics, by lm-polygraph's names.

Every metric is a value for each token and a way to reduce them; higher = more uncertain,
save two where lm-polygraph's sign is followed.
Natural logarithms. A token without a value (NaN: nothing stood before it) is left out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from conf_server.stats.columns import TokenStatistic
from conf_server.stats.sequence import top_k_entropy
from conf_server.stats.trace import TraceRows

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Metric:
    """How a metric is computed.

    Attributes:
        tokens: (statistics (n, s) float64, log V) -> (n,), one value a token.
        reduce: (m,) -> the answer's value; m >= 1.
    """

    tokens: Callable[[Floats, float], Floats]
    reduce: Callable[[Floats], np.floating]


@dataclass(frozen=True)
class MetricValues:
    """A metric of one answer.

    Attributes:
        tokens: (n,) one value a token, NaN where it has none.
        value: of the whole answer; None where no token has one.
        exact: False where it is computed from less than the whole vocabulary; with all
            NaN, where it cannot be computed from less at all.
    """

    tokens: Floats
    value: float | None
    exact: bool


def _column(column: TokenStatistic) -> Callable[[Floats, float], Floats]:
    return lambda statistics, _log_v: statistics[:, column]


def _self_certainty(statistics: Floats, log_v: float) -> Floats:
    """(1/V) sum log p + log V: minus KL(uniform || p) (arXiv 2502.18581; lm-polygraph's sign)."""
    return statistics[:, TokenStatistic.MEAN_LOGPROB] + log_v


def _log_sum_root(statistics: Floats) -> Floats:
    """log sum q^(1/2), q = softmax(log p / 2): q = p^(1/2) / sum p^(1/2)."""
    half = statistics[:, TokenStatistic.LOG_SUM_P_HALF]
    return statistics[:, TokenStatistic.LOG_SUM_P_QUARTER] - half / 2


def _renyi_neg(statistics: Floats, log_v: float) -> Floats:
    """lm-polygraph's RenyiNeg with its defaults, alpha 1/2 and temperature 2 (arXiv 2212.09171).

    (log sum q^a - (a-1) log V) / (a-1) at a = 1/2. Its sign is lm-polygraph's too, which
    says higher = more uncertain although a flat distribution has the lowest value.
    """
    return -2 * _log_sum_root(statistics) - log_v


def _fisher_rao(statistics: Floats, log_v: float) -> Floats:
    """lm-polygraph's FisherRao at its temperature 2: (2/pi) arccos sum (q/V)^(1/2).

    The distance from the flat distribution, so lowest there: see `_renyi_neg` for the sign.
    """
    cosine = np.exp(_log_sum_root(statistics) - log_v / 2)
    # Rounding may carry a flat distribution past 1.
    return 2 / np.pi * np.arccos(np.minimum(cosine, 1.0))


def _probability_gap(statistics: Floats, _log_v: float) -> Floats:
    """1 - (p of the likeliest - p of the second): 1 where the model cannot choose."""
    first = np.exp(statistics[:, TokenStatistic.LOGPROB_1ST])
    return 1 - (first - np.exp(statistics[:, TokenStatistic.LOGPROB_2ND]))


_ENTROPY = _column(TokenStatistic.ENTROPY)
_FROM_STATISTICS: dict[str, Metric] = {
    "mean_token_entropy": Metric(_ENTROPY, np.mean),
    "max_token_entropy": Metric(_ENTROPY, np.max),
    "self_certainty": Metric(_self_certainty, np.mean),
    "renyi_neg": Metric(_renyi_neg, np.mean),
    "fisher_rao": Metric(_fisher_rao, np.mean),
    "probability_gap": Metric(_probability_gap, np.mean),
}
_FROM_LOGPROB: dict[str, Callable[[Floats], np.floating]] = {
    "perplexity": np.mean,
    "maximum_sequence_probability": np.sum,
}
_FROM_TOP_K = ("mean_token_entropy", "max_token_entropy")

LOGPROB_METRICS = tuple(_FROM_LOGPROB)
"""Those of the tokens' own log-probabilities."""
METRICS = (*_FROM_LOGPROB, *_FROM_STATISTICS)
"""Every name `metrics` may hold."""
TOP_K_METRICS = (*_FROM_LOGPROB, *_FROM_TOP_K)
"""Those that have a value without the engine's statistics."""


def metric_values(rows: TraceRows, name: str, top_k: int, vocab_size: int) -> MetricValues:
    """A metric of an answer.

    Args:
        top_k: how many candidates an inexact entropy is computed from.
        vocab_size: V.

    Raises:
        KeyError: no such metric.
    """
    exact = rows.statistics is not None
    if name in _FROM_LOGPROB:
        tokens = 0.0 - rows.logprobs.astype(np.float64)
        return MetricValues(tokens, _reduce(tokens, _FROM_LOGPROB[name]), True)
    metric = _FROM_STATISTICS[name]
    if rows.statistics is not None:
        tokens = metric.tokens(rows.statistics.astype(np.float64), float(np.log(vocab_size)))
    elif name in _FROM_TOP_K:
        tokens = top_k_entropy(rows.candidate_logprobs, top_k)
    else:
        tokens = np.full(len(rows), np.nan)
    return MetricValues(tokens, _reduce(tokens, metric.reduce), exact)


def _reduce(tokens: Floats, reduce: Callable[[Floats], np.floating]) -> float | None:
    present = tokens[~np.isnan(tokens)]
    return float(reduce(present)) if present.size else None
