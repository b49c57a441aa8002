"""Uncertainty weighted by relevance: Shifting Attention to Relevance (arXiv 2307.01379).

The judge's entailment serves as the similarity of texts, which the paper and lm-polygraph take
from a cross-encoder. Tokens are compared with the question in front, sentences without it: see
`pairs.relevance_pairs`.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from conf_server.uncertainty.estimate import Estimate, estimate
from conf_server.uncertainty.evidence import (
    Evidence,
    Floats,
    answer_logprobs,
    required,
    sample_judgements,
    sample_logprobs,
)
from conf_server.uncertainty.methods.sequence_entropy import sequence_logprobs

_TEMPERATURE: Final = 0.001


def token_sar(evidence: Evidence) -> Estimate:
    """-sum_t w_t log p_t, nats, where w_t is a token's share of relevance (section 4.1).

    A token's relevance is 1 - similarity of the text with and without it. The only token of an
    answer has all of it; otherwise the value is undefined where no token has any. lm-polygraph's
    TokenSAR.
    """
    similarity = required(evidence.answer_token_similarity, "the answer's token similarities")
    return estimate(_token_sar(answer_logprobs(evidence), similarity))


def sentence_sar(evidence: Evidence) -> Estimate:
    """-mean_i log (p_i + sum_{j != i} s_ij p_j / 0.001), nats (section 4.2).

    lm-polygraph's SentenceSAR. It is computed in logarithms, so that the probability of a long
    text does not underflow.
    """
    return estimate(_shifted_entropy(sequence_logprobs(evidence), _sentences(evidence)))


def sar(evidence: Evidence) -> Estimate:
    """`sentence_sar` with exp(-token_sar) of each sample in place of its probability.

    Section 4.3 of the paper and lm-polygraph's SAR.
    """
    similarities = required(evidence.sample_token_similarity, "the samples' token similarities")
    logprobs = [
        -_token_sar(logprobs, similarity)
        for logprobs, similarity in zip(sample_logprobs(evidence), similarities, strict=True)
    ]
    return estimate(_shifted_entropy(np.array(logprobs), _sentences(evidence)))


def _sentences(evidence: Evidence) -> Floats:
    return sample_judgements(evidence).entail


def _token_sar(logprobs: Floats, similarity: Floats) -> float:
    if similarity.shape != logprobs.shape:
        raise ValueError(f"{len(similarity)} token similarities for {len(logprobs)} tokens")
    relevance = 1 - similarity if len(similarity) > 1 else np.ones(1)
    total = relevance.sum()
    return float(-(logprobs * relevance).sum() / total) if total > 0 else float("nan")


def _shifted_entropy(logprobs: Floats, similarity: Floats) -> float:
    """-mean_i log (p_i + sum_{j != i} s_ij p_j / t) from log p (m,) and s (m, m)."""
    weights = similarity / _TEMPERATURE
    np.fill_diagonal(weights, 1.0)
    with np.errstate(divide="ignore"):  # log 0 of texts that have nothing in common
        terms = np.log(weights) + logprobs
    return -float(np.logaddexp.reduce(terms, axis=1).mean())
