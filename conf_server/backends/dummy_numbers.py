"""What the dummy backend makes up, easy to predict in tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from conf_server.backends.base import Limits
from conf_server.stats.columns import NUM_TOKEN_STATISTICS, TokenStatistic
from conf_server.stats.forced import (
    ForcedAttention,
    ForcedLabels,
    ForcedStates,
    ForcedText,
    WantedAttention,
    WantedRows,
    WantedStates,
)
from conf_server.stats.trace import TraceRows

NUM_HEADS: Final = 2
CONFIDENCE: Final = 1.0
"""Of every token, and so is every other statistic but the mean log-probability, which is at most
-log V of any distribution."""
LIMITS: Final = Limits(
    max_len=64,
    vocab_size=1000,
    candidates=20,
    has_chat_template=True,
    states=None,
    num_layers=2,
    hidden_size=3,
    num_heads=NUM_HEADS,
    attention=(None, None),
)


def made_up_rows(ids: Sequence[int], wanted: WantedRows) -> TraceRows:
    """Token i has the log-probability -(i + 1) / 10 wherever it stands."""
    table = np.array([[i, *range(wanted.width)] for i in ids], np.int32)
    ones = np.full((len(table), NUM_TOKEN_STATISTICS), CONFIDENCE, np.float32)
    ones[:, TokenStatistic.MEAN_LOGPROB] = -np.log(LIMITS.vocab_size) - CONFIDENCE
    return TraceRows(table, -(table + 1) / 10, table[:, 0], ones if wanted.statistics else None)


def made_up_states(text: ForcedText, wanted: WantedStates, hidden_size: int) -> ForcedStates:
    """Each number of token i's hidden state in layer l is i + l / 100, before the pooling."""
    ids = text.token_ids[text.num_context if wanted.completion_only else 0 :]
    tokens = np.add.outer(np.array(wanted.layers, float) / 100, ids)[..., None]
    if wanted.pooling == "mean":
        tokens = tokens.mean(axis=1, keepdims=True)
    elif wanted.pooling == "last":
        tokens = tokens[:, -1:]
    states = np.repeat(tokens, hidden_size, axis=2).astype(np.float32)
    return ForcedStates(states, 0, _made_up_attention(text, ids, wanted.attention))


def _made_up_attention(
    text: ForcedText, ids: Sequence[int], wanted: WantedAttention | None
) -> ForcedAttention | None:
    """Token i pays 1 / (i + h + 2) in head h, and the last token pays that to a token i."""
    if wanted is None:
        return None

    def weights(tokens: Sequence[int]) -> NDArray[np.float32]:
        of_heads = 1 / (np.add.outer(np.array(tokens), np.arange(NUM_HEADS)) + 2)
        return np.repeat(of_heads[None].astype(np.float32), len(wanted.layers), axis=0)

    near = np.repeat(weights(ids)[..., None], wanted.history, axis=3)
    mass = np.full(near.shape[:3], 0.5, np.float32) if wanted.context_mass else None
    if wanted.last_on is None:
        return ForcedAttention(near, mass)
    chosen = text.token_ids[slice(*wanted.last_on)]
    return ForcedAttention(near, mass, weights(chosen).transpose(0, 2, 1))


def made_up_labels(count: int) -> ForcedLabels:
    """Label i has the log-probability -(i + 1) log 2."""
    return ForcedLabels(-np.log(2 ** (1.0 + np.arange(count))), num_tokens=8, num_cached=0)
