"""Uncertainty from the answer's own tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np

from conf_server.stats.columns import TokenStatistic
from conf_server.stats.metrics import metric_values
from conf_server.stats.trace import TraceRows
from conf_server.uncertainty.estimate import Estimate, estimate
from conf_server.uncertainty.evidence import (
    Evidence,
    Floats,
    answer_logprobs,
    answer_statistics,
    required,
)

# Found best in arXiv 2210.13210; lm-polygraph's defaults.
_CPMI_ENTROPY: Final = 0.0656
_CPMI_SCALE: Final = 3.599


def logprob_metric(name: str) -> Callable[[Evidence], Estimate]:
    """A metric of `conf_server.stats.metrics` that reads log-probabilities alone."""

    def compute(evidence: Evidence) -> Estimate:
        return _metric(name, answer_logprobs(evidence), None, 0)

    return compute


def statistics_metric(name: str) -> Callable[[Evidence], Estimate]:
    """A metric of `conf_server.stats.metrics` that reads the token statistics."""

    def compute(evidence: Evidence) -> Estimate:
        vocab_size = required(evidence.vocab_size, "the vocabulary's size")
        return _metric(name, answer_logprobs(evidence), answer_statistics(evidence), vocab_size)

    return compute


def _metric(name: str, logprobs: Floats, statistics: Floats | None, vocab_size: int) -> Estimate:
    n = len(logprobs)
    no_ids, ranks = np.zeros((n, 1), np.int32), np.zeros(n, np.int32)
    rows = TraceRows(no_ids, logprobs[:, None], ranks, statistics)
    return estimate(metric_values(rows, name, 0, vocab_size).value)


def mean_pointwise_mutual_information(evidence: Evidence) -> Estimate:
    """-mean_t (log p(y_t | x, y_<t) - log p(y_t | y_<t)), nats; the first token unreduced.

    lm-polygraph's MeanPointwiseMutualInformation. (Its 0.7.0 reads log p(y_t | y_<t) at
    the position after, see GreedyLMProbsCalculator; here it is what the formula says.)
    """
    return estimate(-float(np.mean(answer_logprobs(evidence) - _unconditional(evidence))))


def mean_conditional_pointwise_mutual_information(evidence: Evidence) -> Estimate:
    """Pointwise mutual information where the model is unsure, log-probability elsewhere.

    -mean_t (log p(y_t | x, y_<t) - 3.599 [H_t >= 0.0656] log p(y_t | y_<t)), nats, H_t the
    entropy under the prompt: arXiv 2210.13210 and lm-polygraph's defaults. The first token is
    unreduced.
    """
    unsure = answer_statistics(evidence)[:, TokenStatistic.ENTROPY] >= _CPMI_ENTROPY
    reduction = np.where(unsure, _CPMI_SCALE * _unconditional(evidence), 0.0)
    return estimate(-float(np.mean(answer_logprobs(evidence) - reduction)))


def _unconditional(evidence: Evidence) -> Floats:
    """(n,) log p(y_t | y_<t), 0 for the first."""
    given = required(evidence.unconditional_logprobs, "log-probabilities without the prompt")
    n = len(answer_logprobs(evidence))
    if given.shape != (n,):
        raise ValueError(f"unconditional_logprobs of shape {given.shape} for {n} tokens")
    return np.concatenate(([0.0], given[1:]))
