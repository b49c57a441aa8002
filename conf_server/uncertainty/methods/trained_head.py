"""The verdict of a network that was trained to tell wrong answers from right ones."""

from __future__ import annotations

import math

import numpy as np

from conf_server.uncertainty.estimate import Estimate, estimate
from conf_server.uncertainty.evidence import Evidence, required


def uhead(evidence: Evidence) -> Estimate:
    """The probability of being wrong that a trained head gives (EMNLP 2025, main 1809).

    luh's heads are trained with the label 1 for what is false, so that a logit's sigmoid is the
    probability of that. Of a head that judges claims the value is that of the whole answer. Of one
    that judges tokens it is the mean over the answer's tokens, as luh's own estimator has it with
    `reduce_type="mean"`, and `details["tokens"]` has each of them.

    Raises:
        MissingEvidenceError: no head has judged the answer.
    """
    verdict = required(evidence.head_verdict, "the verdict of a trained head")
    wrong = 0.5 * (1 + np.tanh(verdict.logits / 2))  # the sigmoid, which cannot overflow like this
    value = float(wrong.mean())
    if not verdict.of_tokens:
        return estimate(value)
    return estimate(
        value, tokens=[each if math.isfinite(each) else None for each in wrong.tolist()]
    )
