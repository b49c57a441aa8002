"""Uncertainty from the graph of samples that a judge finds alike.

The graph's weights W (m, m) are the judge's entailment, averaged over both directions; where the
judge knows only a similarity, they are the similarity. The methods that end in `_contra` take
1 - contradiction instead: what lm-polygraph calls affinity "contra". A text entails itself with
certainty here, where lm-polygraph asks its judge about that too.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from conf_server.uncertainty.estimate import Estimate, estimate
from conf_server.uncertainty.evidence import Evidence, Floats, sample_judgements

_ECCENTRICITY_EIGENVALUES: Final = 0.9
_HEAT: Final = 0.3
_ZERO_EIGENVALUE: Final = 1e-8


def _entailment(evidence: Evidence) -> Floats:
    entail = sample_judgements(evidence).entail
    return (entail + entail.T) / 2


def _no_contradiction(evidence: Evidence) -> Floats:
    contradict = sample_judgements(evidence).contradict
    return 1 - (contradict + contradict.T) / 2


def _normalized_laplacian(weights: Floats) -> Floats:
    """I - D^(-1/2) W D^(-1/2), D the sums of W's rows."""
    scale = 1 / np.sqrt(weights.sum(axis=1))
    return np.eye(len(weights)) - weights * np.outer(scale, scale)


def num_sem_sets(evidence: Evidence) -> Estimate:
    """How many groups of samples hang together, 1 to m (arXiv 2305.19187).

    Two samples are tied where entailment beats contradiction in both directions; groups
    are the connected components. lm-polygraph's NumSemSets.
    """
    judgements = sample_judgements(evidence)
    ahead = judgements.entail > judgements.contradict
    classes = _components(ahead & ahead.T)
    return estimate(float(max(classes) + 1), classes=classes)


def _components(tied: np.ndarray) -> list[int]:
    """Component of each node, numbered in order of first appearance."""
    reached = tied | np.eye(len(tied), dtype=bool)
    while True:
        further = reached @ reached
        if np.array_equal(further, reached):
            break
        reached = further
    first = reached.argmax(axis=1)
    number = {node: c for c, node in enumerate(dict.fromkeys(first.tolist()))}
    return [number[node] for node in first.tolist()]


def deg_mat(evidence: Evidence) -> Estimate:
    """Mean dissimilarity trace(m I - D) / m^2 (arXiv 2305.19187), in [0, 1].

    D has the sums of W's rows on its diagonal. lm-polygraph's DegMat.
    """
    return _deg_mat(_entailment(evidence))


def deg_mat_contra(evidence: Evidence) -> Estimate:
    """`deg_mat` of the graph of samples that do not contradict each other."""
    return _deg_mat(_no_contradiction(evidence))


def _deg_mat(weights: Floats) -> Estimate:
    return estimate(float(1 - weights.mean()))


def eccentricity(evidence: Evidence) -> Estimate:
    """How far the samples lie from their centre in the graph's spectral embedding.

    The norm of all centred eigenvectors of the normalised Laplacian with eigenvalues under
    0.9 (arXiv 2305.19187). lm-polygraph's Eccentricity.
    """
    return _eccentricity(_entailment(evidence))


def eccentricity_contra(evidence: Evidence) -> Estimate:
    """`eccentricity` of the graph of samples that do not contradict each other."""
    return _eccentricity(_no_contradiction(evidence))


def _eccentricity(weights: Floats) -> Estimate:
    values, vectors = np.linalg.eigh(_normalized_laplacian(weights))
    kept = vectors[:, values < _ECCENTRICITY_EIGENVALUES]
    return estimate(float(np.linalg.norm(kept - kept.mean(axis=0))))


def eig_val_laplacian(evidence: Evidence) -> Estimate:
    """Sum of max(0, 1 - eigenvalue) of the normalised Laplacian (arXiv 2305.19187), 1 to m.

    A smooth count of meanings. lm-polygraph's EigValLaplacian.
    """
    return _eig_val_laplacian(_entailment(evidence))


def eig_val_laplacian_contra(evidence: Evidence) -> Estimate:
    """`eig_val_laplacian` of the graph of samples that do not contradict each other."""
    return _eig_val_laplacian(_no_contradiction(evidence))


def _eig_val_laplacian(weights: Floats) -> Estimate:
    values = np.linalg.eigvalsh(_normalized_laplacian(weights))
    return estimate(float(np.maximum(0, 1 - values).sum()))


def kernel_language_entropy(evidence: Evidence) -> Estimate:
    """Von Neumann entropy of the graph's heat kernel, divided by log m (arXiv 2405.20003).

    Weights entail + neutral/2, both directions added; kernel exp(-0.3 L), scaled to unit
    diagonal and trace 1. lm-polygraph's KernelLanguageEntropy. Undefined for one sample.
    """
    judgements = sample_judgements(evidence)
    weights = judgements.entail + judgements.neutral / 2
    weights = weights + weights.T
    m = len(weights)
    if m == 1:
        return estimate(None)
    values, vectors = np.linalg.eigh(np.diag(weights.sum(axis=0)) - weights)
    kernel = (vectors * np.exp(-_HEAT * values)) @ vectors.T
    scale = 1 / np.sqrt(np.diag(kernel))
    spectrum = np.linalg.eigvalsh(kernel * np.outer(scale, scale) / m)
    spectrum = spectrum[spectrum > _ZERO_EIGENVALUE]
    return estimate(float(-(spectrum * np.log(spectrum)).sum() / np.log(m)))


def luq(evidence: Evidence) -> Estimate:
    """1 - mean over ordered pairs of entail / (entail + contradict), in [0, 1].

    LUQ (EMNLP 2024, main 299) as in lm-polygraph, over whole texts. Undefined for one
    sample, and where a judge is certain of neither.
    """
    judgements = sample_judgements(evidence)
    others = ~np.eye(len(judgements.entail), dtype=bool)
    entail, contradict = judgements.entail[others], judgements.contradict[others]
    if not entail.size or (entail + contradict == 0).any():
        return estimate(None)
    return estimate(float(1 - (entail / (entail + contradict)).mean()))
