"""Trained heads of the dummy backend, which nobody has trained."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from conf_server.heads.features import FeatureRow, ModelShape
from conf_server.heads.luh_config import Extractor
from conf_server.heads.uncertainty_head import UncertaintyHead

SHAPE = ModelShape(num_layers=2, num_heads=2, hidden_size=3)


class Network:
    """Judges by the first feature; notes what it is given."""

    def __init__(self, *, of_tokens: bool) -> None:
        self.of_tokens = of_tokens
        self.given: list[tuple[NDArray[np.float32], int]] = []

    def __call__(self, features: NDArray[np.float32], first: int) -> NDArray[np.float32]:
        self.given.append((features, first))
        logits = features[first:, 0]
        return logits if self.of_tokens else logits.mean(keepdims=True)


def head(
    *extractors: Extractor,
    network: Network | None = None,
    reads_context: bool = False,
    max_values: int = 1000,
) -> UncertaintyHead:
    network = network or Network(of_tokens=True)
    return UncertaintyHead(
        "made up",
        FeatureRow(extractors, SHAPE),
        SHAPE,
        network,
        judges_tokens=network.of_tokens,
        reads_context=reads_context,
        max_values=max_values,
    )
