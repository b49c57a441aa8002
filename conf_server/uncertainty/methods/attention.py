"""Methods that look at what the answer's tokens attend to."""

from __future__ import annotations

from typing import Final

import numpy as np

from conf_server.stats.columns import TokenStatistic
from conf_server.uncertainty.estimate import Estimate, estimate
from conf_server.uncertainty.evidence import (
    Evidence,
    answer_logprobs,
    answer_statistics,
    required,
)
from conf_server.uncertainty.method import Floats

_LEAST: Final = 1e-12
"""Keeps the logarithm of a weight of 0 finite: lm-polygraph's number."""

ALPHA: Final = 0.2
"""RAUQ's alpha for base models; of its authors' code, as lm-polygraph 0.7.0 has it."""
ALPHA_INSTRUCT: Final = 0.5
"""The same for models that are tuned to follow instructions."""
ALPHA_ENTROPY: Final = 0.8
"""The same for base models where entropies stand for probabilities."""
ALPHA_ENTROPY_INSTRUCT: Final = 0.9
"""The same for models that are tuned to follow instructions."""


def attention_score(evidence: Evidence) -> Estimate:
    """Minus the sum over prompt and answer of the log of what a token pays to itself.

    It is the mean over the heads of the middle layer, N // 2 of N (LLM-Check, openreview
    LYx4w3CAgy, as lm-polygraph's AttentionScore). Higher = tokens attend less to themselves. It
    grows with the length of prompt and answer.

    Raises:
        MissingEvidenceError: there are no attention weights.
    """
    own = required(evidence.self_attention, "attention weights of prompt and answer")
    return estimate(_score(own))


def attention_score_gen_only(evidence: Evidence) -> Estimate:
    """`attention_score` over the answer's tokens but the last, without the prompt's.

    Raises:
        MissingEvidenceError: there are no attention weights.
    """
    attention = required(evidence.answer_attention, "attention weights of the answer")
    return estimate(_score(attention.own[attention.middle]))


def _score(own: Floats) -> float:
    """
    Args:
        own: (n, heads).
    """
    return float(-np.log(own + _LEAST).mean(axis=1).sum())


def rauq(evidence: Evidence) -> Estimate:
    """Recurrent attention-based uncertainty (arXiv 2505.20045), from token probabilities.

    With p_j the probability of token j, and a_j what token j - 1 pays to itself in the head of a
    layer whose mean over the answer is the largest:

        s_0 = p_0,  s_j = alpha p_j + (1 - alpha) a_j s_(j-1)

    The value is the largest over the middle third of the layers of 1 - mean_j log s_j. The paper
    speaks of attention to the token before. What its authors' code takes, and lm-polygraph's, is
    the weight in the step that generates token j, whose query is token j - 1.

    Raises:
        MissingEvidenceError: there are no attention weights, or no log-probabilities.
        ValueError: there are weights of another number of tokens.
    """
    alpha = ALPHA_INSTRUCT if evidence.is_instruct else ALPHA
    return estimate(_rauq(evidence, np.exp(answer_logprobs(evidence)), alpha))


def rauq_entropy(evidence: Evidence) -> Estimate:
    """`rauq` with log V minus the entropy of token j's distribution in place of p_j.

    Raises:
        MissingEvidenceError: as `rauq`, and where there are no exact token statistics.
        ValueError: as `rauq`.
    """
    vocabulary = required(evidence.vocab_size, "the size of the vocabulary")
    entropy = answer_statistics(evidence)[:, TokenStatistic.ENTROPY]
    alpha = ALPHA_ENTROPY_INSTRUCT if evidence.is_instruct else ALPHA_ENTROPY
    return estimate(_rauq(evidence, np.log(vocabulary) - entropy + 1e-10, alpha))


def _rauq(evidence: Evidence, sureness: Floats, default_alpha: float) -> float:
    """
    Args:
        sureness: (n,), what stands for the tokens' probabilities.
    """
    own = required(evidence.answer_attention, "attention weights of the answer").own
    if own.shape[1] != len(sureness) - 1:
        raise ValueError(f"weights of {own.shape[1]} tokens for an answer of {len(sureness)}")
    alpha = default_alpha if evidence.rauq_alpha is None else evidence.rauq_alpha
    heads = own.mean(axis=1).argmax(axis=1) if own.shape[1] else np.zeros(len(own), np.int64)
    chosen = np.take_along_axis(own, heads[:, None, None], axis=2)[:, :, 0]  # (layers, n - 1)
    states = np.empty((len(own), len(sureness)))
    states[:, 0] = sureness[0]
    for j in range(1, len(sureness)):
        states[:, j] = alpha * sureness[j] + (1 - alpha) * chosen[:, j - 1] * states[:, j - 1]
    return float((1 - np.log(states).mean(axis=1)).max())


def csl(evidence: Evidence) -> Estimate:
    """Contextualized sequence likelihood (EMNLP 2024, main 578); higher = less likely, nats.

    The mean of minus the log-probabilities of the answer's tokens, each weighted with what the
    model pays to it, over all layers and heads, where it is about to judge the answer.

    Raises:
        MissingEvidenceError: there are no such weights, or no log-probabilities.
        ValueError: there are weights of another number of tokens.
    """
    logprobs = answer_logprobs(evidence)
    weights = required(evidence.judging_attention, "attention weights of a judgement")
    if len(weights) != len(logprobs):
        raise ValueError(f"weights of {len(weights)} tokens for an answer of {len(logprobs)}")
    return estimate(float(-(logprobs @ weights) / weights.sum()))
