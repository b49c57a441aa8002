"""What transformers says of the engine's readings."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from conf_server.check.inner_compare import (
    InnerLine,
    largest_state_distance,
    largest_weight_difference,
)
from conf_server.check.inner_readings import InnerReading
from conf_server.check.readings import Reading
from conf_server.check.reference_rows import ReferenceRows, reference_rows
from conf_server.check.transformers_scorer import TransformersScorer


class Reference:
    """Rows of the tokens that the engine has given rows for."""

    def __init__(self, scorer: TransformersScorer) -> None:
        self._scorer = scorer
        self._token_ids: list[int] = []
        self._logits = torch.empty(0)

    def rows(self, reading: Reading, statistics: bool) -> ReferenceRows:
        """What transformers says where the engine has given a row.

        There is no forward pass for a sequence that the last computed one begins with.

        Args:
            statistics: whether to compute the token statistics too.
        """
        logits = self._forward(reading.token_ids)[reading.first - 1 :].cpu().numpy()
        own = np.array(reading.token_ids[reading.first :])
        return reference_rows(logits, own, reading.rows.candidate_ids, statistics)

    def inner(self, reading: InnerReading) -> InnerLine:
        """The engine's hidden states and attention weights against transformers'."""
        ids, first = reading.token_ids, reading.first
        states, where = largest_state_distance(
            reading.states, self._scorer.hidden_states(ids, reading.layers, first)
        )
        line = InnerLine(
            reading.text, reading.kind, len(ids) - first, states, reading.layers[where]
        )
        if reading.weights is None:
            return line
        attention = self._scorer.attention(ids, reading.attention_layers)
        rows = np.arange(first, len(ids))
        near = [
            np.where(rows >= back, attention[:, :, rows, np.maximum(rows - back, 0)], 0)
            for back in range(reading.weights.shape[-1])
        ]
        expected = np.stack(near, -1).transpose(0, 2, 1, 3)
        weights, where = largest_weight_difference(reading.weights, expected)
        layer = reading.attention_layers[where]
        return replace(line, weights=weights, weights_layer=layer)

    def _forward(self, token_ids: list[int]) -> torch.Tensor:
        """(n-1, vocabulary) float32 logits: row t is the distribution of token t+1."""
        if self._token_ids[: len(token_ids)] != token_ids:
            self._token_ids, self._logits = token_ids, self._scorer.logits(token_ids)
        return self._logits[: len(token_ids) - 1]
