"""What a method of estimating uncertainty is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from conf_server.uncertainty.estimate import Estimate
from conf_server.uncertainty.evidence import Evidence
from conf_server.uncertainty.needs import Need

Floats = NDArray[np.float64]
Direction = Literal["more uncertain", "less uncertain"]


def inverse(values: Floats) -> Floats:
    """1/v: the confidence of a perplexity, the geometric mean of the tokens' probabilities."""
    return 1 / values


def exponential(values: Floats) -> Floats:
    """exp(-v): the confidence of a negative log-probability."""
    return np.exp(-values)


def complement(values: Floats) -> Floats:
    """1 - v: the confidence of a share, or of one minus a probability."""
    return 1 - values


@dataclass(frozen=True)
class Method:
    """A way to estimate uncertainty.

    Attributes:
        name: letters, digits and underscores; lm-polygraph's in snake case where it has the
            method.
        needs: the evidence that `estimate` reads.
        estimate: raises MissingEvidenceError where something that it needs is not there.
        source: the paper or code that defines the number.
        description: one line for people. It is served alone, and so may not lean on the
            description of another method.
        confidence: turns values (n,) into probabilities (n,) in [0, 1] of being right, where
            the method's definition gives one; None where only a map fitted to labelled answers
            could do so, whose calibration would say nothing of the method.
        higher_is: what a higher value means. "more uncertain" for all methods of this package.
        is_ratio: values are positive and differ by ratios, as perplexities do. A report then tells
            them apart by their logarithms, so that one huge value does not make others look equal.
        family: a group that the method belongs to, by which it can be asked for.
    """

    name: str
    needs: frozenset[Need]
    estimate: Callable[[Evidence], Estimate]
    source: str
    description: str
    confidence: Callable[[Floats], Floats] | None = None
    higher_is: Direction = "more uncertain"
    is_ratio: bool = False
    family: str | None = None
