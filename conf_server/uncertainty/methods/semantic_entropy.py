"""Uncertainty over meanings: samples that say the same count as one answer."""

from __future__ import annotations

from collections.abc import Sequence

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
    """The number of each text's class of meaning, in the order of first appearance.

    A text joins the first class whose first member entails it and is entailed by it. One text
    entails another where the judge finds that strictly likelier than neutrality and than
    contradiction, which for a similarity means above 1/2. Where a judge is not transitive, the
    classes depend on the order of the texts. This is algorithm 1 of arXiv 2302.09664 and
    lm-polygraph's SemanticClassesCalculator.
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
    """-mean_i log sum_{j in class of i} p(s_j), nats (arXiv 2302.09664, eq. 8).

    lm-polygraph's SemanticEntropy with its defaults ("sum", "mean"): a sample that was drawn
    twice counts twice. The sums are not divided by their total, so the value is no entropy of
    so many classes: for a few samples of long texts it is tens of nats.
    """
    return _semantic_entropy(evidence, range(len(evidence.samples)))


def semantic_entropy_unique(evidence: Evidence) -> Estimate:
    """`semantic_entropy` with each distinct text's probability once in the sum of its class.

    The mean still runs over all samples. lm-polygraph's SemanticEntropyUnique.
    """
    return _semantic_entropy(
        evidence, first_occurrences([sample.text for sample in evidence.samples])
    )


def _semantic_entropy(evidence: Evidence, counted: Sequence[int]) -> Estimate:
    """Of all samples, with classes whose probabilities are sums over the counted ones."""
    classes = np.array(semantic_classes(sample_judgements(evidence)))
    logprobs = sequence_logprobs(evidence)
    totals = np.full(classes.max() + 1, -np.inf)
    np.logaddexp.at(totals, classes[counted], logprobs[counted])
    return estimate(-float(totals[classes].mean()), classes=classes.tolist())


def semantic_entropy_empirical(evidence: Evidence) -> Estimate:
    """-sum_c n_c/m log(n_c/m), nats, n_c the samples of class c: at most log m.

    lm-polygraph's SemanticEntropyEmpirical ("frequency"). It reads no log-probabilities.
    """
    classes = semantic_classes(sample_judgements(evidence))
    shares = np.bincount(classes) / len(classes)
    return estimate(0.0 - float((shares * np.log(shares)).sum()), classes=classes)


def label_prob(evidence: Evidence) -> Estimate:
    """1 - share of the samples in the largest class of meaning, in [0, 1).

    lm-polygraph's LabelProb.
    """
    classes = semantic_classes(sample_judgements(evidence))
    return estimate(1 - float(np.bincount(classes).max() / len(classes)), classes=classes)


def semantic_density(evidence: Evidence) -> Estimate:
    """Minus the share of probability that lies near the answer's meaning, in [-1, 0].

    -(sum_i q_i k_i + q) / (sum_i q_i + q) over the distinct samples, where q is the geometric
    mean of a text's token probabilities and k = 1 - contradict - neutral/2, with the answer as
    premise (arXiv 2405.13845). This is lm-polygraph's SemanticDensityOutput. Its SemanticDensity
    shows the judge each text with the question in front; here texts are compared as they are.
    """
    judgements = all_judgements(evidence)
    distinct = first_occurrences([sample.text for sample in evidence.samples])
    distance = (judgements.contradict + judgements.neutral / 2)[0, 1:][distinct]
    own = np.exp(answer_logprobs(evidence).mean())
    mass = np.exp(mean_logprobs(evidence)[distinct])
    near = mass * np.maximum(1 - distance, 0)
    return estimate(-float((near.sum() + own) / (mass.sum() + own)))
