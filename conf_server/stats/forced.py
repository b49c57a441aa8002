"""What is asked of teacher forcing and what it answers, as plain data.

Every backend that can force a text speaks in these, whatever engine does the work.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from conf_server.stats.trace import TraceRows


@dataclass(frozen=True)
class ForcedText:
    """What to force through the model.

    Attributes:
        token_ids: context and completion.
        num_context: how many of them are context; the rest is scored.
    """

    token_ids: list[int]
    num_context: int

    @property
    def first_scored(self) -> int:
        """Position of the first token with a log-probability: something stands before it."""
        return max(self.num_context, 1)


@dataclass(frozen=True)
class WantedRows:
    """What a row has to hold.

    Attributes:
        top_k: candidates that the confidence is the mean of.
        candidates: how many of the likeliest tokens to name; with `statistics` the others
            of the top k are not.
        statistics: the worker makes the rows, with `TokenStatistic` columns; else they are
            stock `prompt_logprobs`.
        token_ids: the tokens to name instead; only with `statistics`.
        ranks: the tokens' ranks, which stock rows always have.
    """

    top_k: int
    candidates: int
    statistics: bool
    token_ids: tuple[int, ...] = ()
    ranks: bool = False

    @property
    def width(self) -> int:
        return self.candidates if self.statistics else max(self.top_k, self.candidates)


@dataclass(frozen=True)
class ForcedRows:
    """The engine's answer.

    Attributes:
        rows: one row for each token from `ForcedText.first_scored` on.
        num_cached: tokens whose computation the prefix cache saved.
    """

    rows: TraceRows
    num_cached: int


@dataclass(frozen=True)
class ForcedLabels:
    """What the model thinks of some tokens.

    Attributes:
        logprobs: (labels,) nats.
        num_tokens: tokens that were forced for it.
        num_cached: those of them that the prefix cache saved.
    """

    logprobs: NDArray[np.floating]
    num_tokens: int
    num_cached: int
