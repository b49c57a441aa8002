"""Methods that look at what the model's layers make of its answers."""

from __future__ import annotations

from typing import Final

import numpy as np

from conf_server.uncertainty.estimate import Estimate, estimate
from conf_server.uncertainty.evidence import Evidence, required

_RIDGE: Final = 1e-3
"""The paper's alpha: it keeps the determinant of identical samples from vanishing."""


def eigenscore(evidence: Evidence) -> Estimate:
    """Mean log-eigenvalue of the covariance of the samples' states; higher = they differ more.

    The covariance is Z J Z^T + alpha I, with one row of Z a sample and J = I - 11^T / d, which
    centres each state over its own d numbers (arXiv 2402.03744, section 3.1, as lm-polygraph's
    EigenScore reads it).

    Raises:
        MissingEvidenceError: there are no samples, or no states of them.
        ValueError: there are states of another number of texts.
    """
    samples = required(evidence.samples, "samples")
    states = required(evidence.sample_states, "hidden states of the samples")
    if len(states) != len(samples):
        raise ValueError(f"states of {len(states)} texts, there are {len(samples)} samples")
    centred = states - states.mean(axis=1, keepdims=True)
    covariance = centred @ centred.T + _RIDGE * np.eye(len(states))
    return estimate(float(np.log(np.linalg.eigvalsh(covariance)).mean()))
