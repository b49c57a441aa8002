"""How far the engine's hidden states and attention weights are from the reference's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class InnerTolerance:
    """The limits of an `InnerLine`. What is equal to a limit is within it."""

    states: float
    weights: float


INNER_BY_DTYPE: Final = {
    "float32": InnerTolerance(1e-3, 1e-3),
    "float16": InnerTolerance(0.05, 0.05),
    "bfloat16": InnerTolerance(0.3, 0.3),
}


def inner_tolerance(dtype: str, quantization: str | None) -> InnerTolerance:
    """The limits for an engine.

    Args:
        dtype: of its activations; an unknown one gets bfloat16's.
        quantization: of its weights, which may then be anything; None for none.
    """
    if quantization:
        return InnerTolerance(1.0, 1.0)
    return INNER_BY_DTYPE.get(dtype, INNER_BY_DTYPE["bfloat16"])


@dataclass(frozen=True)
class InnerLine:
    """The engine against the reference, over n tokens of one text.

    Attributes:
        text, kind: as in `InnerReading`.
        num_tokens: n.
        states: the largest relative distance of a token's hidden state in a layer,
            |engine - reference| / |reference| by the Euclidean norm.
        states_layer: the layer where it is, 0 the embeddings.
        weights: the largest difference of an attention weight; None where there are none.
        weights_layer: the decoder layer where it is, counted from 0.
    """

    text: str
    kind: str
    num_tokens: int
    states: float
    states_layer: int
    weights: float | None = None
    weights_layer: int | None = None

    def exceeded(self, tolerance: InnerTolerance) -> str:
        """What is past the limits; empty where nothing is. A value that is no number is."""
        found = []
        if not self.states <= tolerance.states:
            where = f"layer {self.states_layer}"
            found.append(f"hidden states of {where} {self.states:.4g} > {tolerance.states:g}")
        if self.weights is not None and not self.weights <= tolerance.weights:
            where = f"layer {self.weights_layer}"
            found.append(f"attention of {where} {self.weights:.4g} > {tolerance.weights:g}")
        return ", ".join(found)


def largest_state_distance(
    engine: NDArray[np.float32], reference: NDArray[np.float32]
) -> tuple[float, int]:
    """`InnerLine.states`, and the index of its layer.

    Args:
        engine, reference: (layers, n, d).
    """
    apart = np.linalg.norm((engine - reference).astype(np.float64), axis=2)
    return _largest(apart / np.linalg.norm(reference.astype(np.float64), axis=2))


def largest_weight_difference(
    engine: NDArray[np.float32], reference: NDArray[np.float32]
) -> tuple[float, int]:
    """`InnerLine.weights`, and the index of its layer.

    Args:
        engine, reference: (layers, n, heads, history).
    """
    return _largest(np.abs(engine.astype(np.float64) - reference))


def _largest(values: NDArray[np.float64]) -> tuple[float, int]:
    """The largest value and the index of its layer; inf where one is not a number."""
    by_layer = np.where(np.isnan(values), np.inf, values).reshape(len(values), -1).max(axis=1)
    return float(by_layer.max()), int(by_layer.argmax())
