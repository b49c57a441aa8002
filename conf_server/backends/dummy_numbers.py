"""What the dummy backend makes up, easy to predict in tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from conf_server.backends.base import Limits
from conf_server.stats.columns import NUM_TOKEN_STATISTICS
from conf_server.stats.forced import (
    ForcedLabels,
    ForcedStates,
    ForcedText,
    WantedRows,
    WantedStates,
)
from conf_server.stats.trace import TraceRows

LIMITS: Final = Limits(
    max_len=64,
    vocab_size=1000,
    candidates=20,
    has_chat_template=True,
    states=None,
    num_layers=2,
    hidden_size=3,
)


def made_up_rows(ids: Sequence[int], wanted: WantedRows) -> TraceRows:
    """Token i has the log-probability -(i + 1) / 10 wherever it stands."""
    table = np.array([[i, *range(wanted.width)] for i in ids], np.int32)
    ones = np.ones((len(table), NUM_TOKEN_STATISTICS), np.float32)
    return TraceRows(table, -(table + 1) / 10, table[:, 0], ones if wanted.statistics else None)


def made_up_states(text: ForcedText, wanted: WantedStates, hidden_size: int) -> ForcedStates:
    """Each number of token i's hidden state in layer l is i + l / 100, before the pooling."""
    ids = text.token_ids[text.num_context if wanted.completion_only else 0 :]
    tokens = np.add.outer(np.array(wanted.layers) / 100, ids)[..., None]
    if wanted.pooling == "mean":
        tokens = tokens.mean(axis=1, keepdims=True)
    elif wanted.pooling == "last":
        tokens = tokens[:, -1:]
    return ForcedStates(np.repeat(tokens, hidden_size, axis=2).astype(np.float32), 0)


def made_up_labels(count: int) -> ForcedLabels:
    """Label i has the log-probability -(i + 1) log 2."""
    return ForcedLabels(-np.log(2 ** (1.0 + np.arange(count))), num_tokens=8, num_cached=0)
