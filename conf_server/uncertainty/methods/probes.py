"""Classifiers that read off a hidden state whether the answer is wrong."""

from __future__ import annotations

import numpy as np

from conf_server.uncertainty.estimate import Estimate, estimate
from conf_server.uncertainty.evidence import Evidence, fitted_state, required
from conf_server.uncertainty.fitted import Floats, LinearProbe, Perceptron


def linear_probe(evidence: Evidence) -> Estimate:
    """The probability of being wrong by a logistic regression (arXiv 1610.01644), 0 to 1."""
    method, state = fitted_state(evidence, "linear_probe")
    learned = method.learned
    assert isinstance(learned, LinearProbe)
    logit = float(state @ learned.weight) + learned.bias
    return estimate(_probability(logit), **method.about)


def lookback_lens(evidence: Evidence) -> Estimate:
    """The probability of being wrong by a logistic regression of lookback ratios, 0 to 1.

    arXiv 2407.07071, whose classifier gives the probability of being right.
    """
    fitted = required(evidence.fitted, "a fit")
    method = required(fitted.methods.get("lookback_lens"), "a fit of lookback_lens")
    ratios = required(evidence.lookback_ratios, "lookback ratios of the answer")
    learned = method.learned
    assert isinstance(learned, LinearProbe)
    return estimate(_probability(float(ratios @ learned.weight) + learned.bias), **method.about)


def saplma(evidence: Evidence) -> Estimate:
    """The probability of being wrong by a perceptron of three hidden layers, 0 to 1.

    arXiv 2304.13734, whose number is the probability of being right.
    """
    method, state = fitted_state(evidence, "saplma")
    learned = method.learned
    assert isinstance(learned, Perceptron)
    return estimate(_probability(perceptron_logit(learned, state)), **method.about)


def perceptron_logit(learned: Perceptron, state: Floats) -> float:
    """The last layer's number for a state (d,)."""
    values = np.asarray(state, np.float64)
    *hidden, last = zip(learned.weights, learned.biases, strict=True)
    for weight, bias in hidden:
        values = np.maximum(values @ weight + bias, 0)
    weight, bias = last
    return float((values @ weight + bias)[0])


def _probability(logit: float) -> float:
    """The logistic function, without an overflow."""
    return float(np.exp(-np.logaddexp(0, -logit)))
