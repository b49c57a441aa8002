"""Fits made up for tests, of vectors of any width."""

from __future__ import annotations

import numpy as np

from conf_server.uncertainty.fitted import (
    FITTABLE,
    Fitted,
    FittedMethod,
    Gaussian,
    KernelDensity,
    Learned,
    Learner,
    LinearProbe,
    ModelIdentity,
    Perceptron,
    RankedGaussian,
    RelativeGaussian,
)


def model(width: int = 3, num_layers: int = 2) -> ModelIdentity:
    return ModelIdentity("/models/m", num_layers, width, "sha256:weights", "sha256:template")


def gaussian(width: int, seed: int = 0) -> Gaussian:
    rng = np.random.default_rng(seed)
    factor = np.tril(rng.normal(size=(width, width)), -1) + np.diag(1 + rng.random(width))
    return Gaussian(rng.normal(size=width), factor)


def learned(learner: Learner, width: int) -> Learned:
    rng = np.random.default_rng(1)
    if learner is Learner.RELATIVE:
        return RelativeGaussian(gaussian(width), gaussian(width, 2))
    if learner is Learner.RANKED:
        return RankedGaussian(gaussian(width), np.array([0.5, 1.0, 2.0]), np.array([1.0, 4.0]))
    if learner is Learner.KERNEL:
        support = rng.normal(size=(4, width)).astype(np.float32)
        projection = rng.normal(size=(4, 2))
        return KernelDensity(support, 0.1, rng.random(4), 0.5, projection, gaussian(2))
    if learner is Learner.LINEAR:
        return LinearProbe(rng.normal(size=width), 0.25)
    if learner is Learner.PERCEPTRON:
        weights = (rng.normal(size=(width, 4)), rng.normal(size=(4, 1)))
        return Perceptron(weights, (rng.normal(size=4), np.array([0.5])))
    return gaussian(width)


def fit(width: int = 3, num_layers: int = 2) -> Fitted:
    """Every method, the probes of layer 1 and the others of the last one; layers have two heads."""
    methods = {}
    for name, one in FITTABLE.items():
        if one.pooled.has_layer:
            layer, numbers = 1 if one.learner.is_probe else num_layers, width
        else:
            layer, numbers = None, 2 * num_layers
        methods[name] = FittedMethod(layer, 40, learned(one.learner, numbers))
    return Fitted(model(width, num_layers), methods)
