"""Entropy of the model's answers by Monte Carlo over samples (arXiv 2302.09664)."""

from __future__ import annotations

import numpy as np

from conf_server.uncertainty.estimate import Estimate, estimate
from conf_server.uncertainty.evidence import Evidence, Floats, sample_logprobs


def sequence_logprobs(evidence: Evidence) -> Floats:
    """(m,) nats: log-probability of each sample as a whole."""
    return np.array([logprobs.sum() for logprobs in sample_logprobs(evidence)])


def mean_logprobs(evidence: Evidence) -> Floats:
    """(m,) nats: mean log-probability of each sample's tokens."""
    return np.array([logprobs.mean() for logprobs in sample_logprobs(evidence)])


def monte_carlo_sequence_entropy(evidence: Evidence) -> Estimate:
    """-mean_i log p(s_i), nats: lm-polygraph's MonteCarloSequenceEntropy."""
    return estimate(-float(sequence_logprobs(evidence).mean()))


def monte_carlo_normalized_sequence_entropy(evidence: Evidence) -> Estimate:
    """-mean_i log p(s_i) / |s_i|, nats a token: lm-polygraph's class of this name."""
    return estimate(-float(mean_logprobs(evidence).mean()))
