"""Probes: the probability of being wrong, from weights that anyone can multiply."""

from __future__ import annotations

import math

import numpy as np
import pytest

from conf_server.uncertainty.evidence import Evidence
from conf_server.uncertainty.fitted import Fitted, FittedMethod, LinearProbe, Perceptron
from conf_server.uncertainty.registry import METHODS
from tests.unit.uncertainty.fits import model

STATE = np.array([2.0, -1.0, 0.5])


def wrong(name: str, learned: LinearProbe | Perceptron, state: np.ndarray = STATE) -> float:
    fitted = Fitted(model(), {name: FittedMethod(15, 40, learned)})
    found = METHODS[name].estimate(Evidence(fitted=fitted, last_states={15: state}))
    assert found.value is not None
    return found.value


def test_a_linear_probe() -> None:
    probe = LinearProbe(np.array([1.0, 2.0, 4.0]), -1.0)
    assert wrong("linear_probe", probe) == pytest.approx(1 / (1 + math.exp(-1.0)))


def test_a_perceptron() -> None:
    """The hidden units are 3 and, rectified, 0."""
    weights = (np.array([[1.0, -1.0], [0.0, 0.0], [2.0, 0.0]]), np.array([[0.5], [9.0]]))
    learned = Perceptron(weights, (np.array([0.0, 1.0]), np.array([-1.0])))
    assert wrong("saplma", learned) == pytest.approx(1 / (1 + math.exp(-0.5)))


def test_no_state_is_too_far() -> None:
    probe = LinearProbe(np.array([1.0, 0.0, 0.0]), 0.0)
    assert wrong("linear_probe", probe, 1e6 * STATE) == 1
    assert wrong("linear_probe", probe, -1e6 * STATE) == 0


@pytest.mark.parametrize("shapes", [[(3, 2), (3, 1)], [(3, 2), (2, 2)], []])
def test_layers_that_do_not_fit_are_no_perceptron(shapes: list[tuple[int, int]]) -> None:
    biases = tuple(np.zeros(outputs) for _, outputs in shapes)
    with pytest.raises(ValueError, match="layers"):
        Perceptron(tuple(np.ones(shape) for shape in shapes), biases)
