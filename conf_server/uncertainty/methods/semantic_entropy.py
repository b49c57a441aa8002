"""Uncertainty over meanings: samples that say the same count as one answer."""

from __future__ import annotations

import numpy as np

from conf_server.uncertainty.estimate import Estimate, estimate
from conf_server.uncertainty.evidence import (
    Evidence,
    Judgements,
    all_judgements,
    answer_logprobs,
    sample_judgements,
)
from conf_server.uncertainty.methods.sequence_entropy import mean_logprobs, sequence_logprobs
from conf_server.uncertainty.pairs import first_occurrences


def semantic_classes(judgements: Judgements) -> list[int]:
    """Class of each text, numbered in order of first appearance.

    A text joins the first class whose first member entails it and is entailed by it;
    entailment is the strictly likeliest of the three (for a similarity: above 1/2).
    arXiv 2302.09664, algorithm 1; lm-polygraph's SemanticClassesCalculator. Where a judge
    is not transitive the classes depend on the order of the texts.
    """
    entails = judgements.entail > np.maximum(judgements.neutral, judgements.contradict)
    mutual = entails & entails.T
    first_members: list[int] = []
    classes = []
    for i in range(len(mutual)):
        same = [c for c, first in enumerate(first_members) if mutual[first, i]]
        classes.append(same[0] if same else len(first_members))
        if not same:
            first_members.append(i)
    return classes


def semantic_entropy(evidence: Evidence) -> Estimate:
    """-mean_i log sum_{j in class of i} p(s_j), nats: lm-polygraph's SemanticEntropy.

    Its defaults: classes' probabilities are sums ("sum"), repeated samples included, and
    not normalised, entropy is the mean over samples ("mean"). arXiv 2302.09664, eq. 8.
    """
    classes = semantic_classes(sample_judgements(evidence))
    logprobs = sequence_logprobs(evidence)
    totals = np.full(max(classes) + 1, -np.inf)
    np.logaddexp.at(totals, classes, logprobs)
    return estimate(-float(totals[classes].mean()), classes=classes)


def semantic_density(evidence: Evidence) -> Estimate:
    """Minus the answer's share of the probability mass around it, in [-1, 0].

    -(sum_i q_i k_i + q) / (sum_i q_i + q) over the distinct samples, q the geometric mean
    of token probabilities, k = 1 - contradict - neutral/2 with the answer as premise.
    arXiv 2405.13845 and lm-polygraph's SemanticDensityOutput; its SemanticDensity is the
    same of texts that begin with the question, when the judge was shown such.
    """
    judgements = all_judgements(evidence)
    distinct = first_occurrences([sample.text for sample in evidence.samples])
    distance = (judgements.contradict + judgements.neutral / 2)[0, 1:][distinct]
    own = np.exp(answer_logprobs(evidence).mean())
    mass = np.exp(mean_logprobs(evidence)[distinct])
    near = mass * np.maximum(1 - distance, 0)
    return estimate(-float((near.sum() + own) / (mass.sum() + own)))
