"""Uncertainty that the model states of its own answer.

The questions that it is asked stand in `prompts`, the readers of its replies in `parsing`.
"""

from __future__ import annotations

import math

from conf_server.uncertainty.estimate import Estimate, estimate
from conf_server.uncertainty.evidence import Evidence, required
from conf_server.uncertainty.parsing import parse_expression, parse_probability


def p_true(evidence: Evidence) -> Estimate:
    """-log p("True"), nats (arXiv 2207.05221): lm-polygraph's PTrue.

    `details["p_true"]` is p("True") / (p("True") + p("False")), in [0, 1], or None where neither
    has a probability: how far the model prefers one verdict, however likely it is to give any.
    """
    return _p_true(required(evidence.p_true_logprobs, "log-probabilities of True and False"))


def p_true_sampling(evidence: Evidence) -> Estimate:
    """`p_true`, with the same details, of a prompt that also shows the samples.

    lm-polygraph's PTrueSampling.
    """
    return _p_true(
        required(
            evidence.p_true_sampling_logprobs,
            "log-probabilities of True and False after the samples",
        )
    )


def p_true_empirical(evidence: Evidence) -> Estimate:
    """1 - share of sampled answers that say "True": lm-polygraph's PTrueEmpirical."""
    texts = required(evidence.p_true_samples, "sampled answers to P(True)")
    return estimate(1 - sum("True" in text for text in texts) / len(texts))


def verbalized_1s(evidence: Evidence) -> Estimate:
    """1 - the probability stated with the answer (arXiv 2305.14975).

    lm-polygraph's Verbalized1S; undefined where no probability can be read.
    """
    return _complement(parse_probability(required(evidence.verbalized_1s, "verbalized_1s")))


def verbalized_2s(evidence: Evidence) -> Estimate:
    """1 - the probability stated when asked for it afterwards: lm-polygraph's Verbalized2S."""
    return _complement(parse_probability(required(evidence.verbalized_2s, "verbalized_2s")))


def linguistic_1s(evidence: Evidence) -> Estimate:
    """1 - the confidence that the stated expression stands for: lm-polygraph's Linguistic1S."""
    return _complement(parse_expression(required(evidence.linguistic_1s, "linguistic_1s")))


def _p_true(logprobs: tuple[float, float]) -> Estimate:
    log_true, _ = logprobs
    return estimate(0.0 - log_true, p_true=_share_of_first(*logprobs))


def _share_of_first(first: float, second: float) -> float | None:
    """exp(first) / (exp(first) + exp(second)), also where both exponentials are 0 in floats."""
    largest = max(first, second)
    if math.isnan(first + second) or math.isinf(largest):
        return None
    return math.exp(first - largest) / (math.exp(first - largest) + math.exp(second - largest))


def _complement(confidence: float | None) -> Estimate:
    return estimate(None if confidence is None else 1 - confidence)
