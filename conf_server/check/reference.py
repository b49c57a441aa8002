"""What transformers says of the engine's readings."""

from __future__ import annotations

import numpy as np
import torch

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

    def _forward(self, token_ids: list[int]) -> torch.Tensor:
        """(n-1, vocabulary) float32 logits: row t is the distribution of token t+1."""
        if self._token_ids[: len(token_ids)] != token_ids:
            self._token_ids, self._logits = token_ids, self._scorer.logits(token_ids)
        return self._logits[: len(token_ids) - 1]
