"""Confidence times consistency: CoCoA (arXiv 2502.04964).

The uncertainty of the answer's own tokens is multiplied by the answer's mean dissimilarity 1 - s_i
to the samples. s_i is the judge's entailment, averaged over both directions; lm-polygraph takes
the similarity of a cross-encoder.
"""

from __future__ import annotations

import numpy as np

from conf_server.stats.columns import TokenStatistic
from conf_server.uncertainty.estimate import Estimate, estimate
from conf_server.uncertainty.evidence import (
    Evidence,
    all_judgements,
    answer_logprobs,
    answer_statistics,
)


def cocoa_msp(evidence: Evidence) -> Estimate:
    """-sum_t log p_t times the dissimilarity, nats: lm-polygraph's CocoaMSP."""
    return estimate(-float(answer_logprobs(evidence).sum()) * _dissimilarity(evidence))


def cocoa_ppl(evidence: Evidence) -> Estimate:
    """-mean_t log p_t times the dissimilarity, nats: lm-polygraph's CocoaPPL.

    Its first factor is the logarithm of what is called `perplexity` here.
    """
    mean_negative_logprob = -float(answer_logprobs(evidence).mean())
    return estimate(mean_negative_logprob * _dissimilarity(evidence))


def cocoa_mte(evidence: Evidence) -> Estimate:
    """Mean token entropy times the dissimilarity, nats: lm-polygraph's CocoaMTE."""
    entropy = answer_statistics(evidence)[:, TokenStatistic.ENTROPY]
    return estimate(float(entropy.mean()) * _dissimilarity(evidence))


def _dissimilarity(evidence: Evidence) -> float:
    entail = all_judgements(evidence).entail
    return float(np.mean(1 - (entail[0, 1:] + entail[1:, 0]) / 2))
