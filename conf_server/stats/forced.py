"""What is asked of teacher forcing and what it answers, as plain data.

Every backend that can force a text speaks in these, whatever engine does the work.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from conf_server.stats.trace import TraceRows


@dataclass(frozen=True)
class ForcedText:
    """A text to score.

    Attributes:
        token_ids: the tokens of the context, then those of the completion.
        num_context: how many of them are the context. The rest is scored.
    """

    token_ids: list[int]
    num_context: int

    @property
    def first_scored(self) -> int:
        """Position of the first token that is scored: never 0, since nothing stands before it."""
        return max(self.num_context, 1)


@dataclass(frozen=True)
class WantedRows:
    """What the row of a scored token has to hold.

    Attributes:
        top_k: over how many candidates the confidence is the mean.
        candidates: how many of the likeliest tokens to name.
        statistics: whether the workers make the rows, with the columns of `TokenStatistic`.
            If not, they are vLLM's `prompt_logprobs`, which name the top k in any case.
        token_ids: tokens to name instead of the likeliest; only with `statistics`.
        ranks: whether to compute the rank of the scored token. vLLM's rows always have it.
    """

    top_k: int
    candidates: int
    statistics: bool
    token_ids: tuple[int, ...] = ()
    ranks: bool = False

    @property
    def width(self) -> int:
        """How many tokens the rows name beside the scored one, if `token_ids` is empty."""
        return self.candidates if self.statistics else max(self.top_k, self.candidates)


@dataclass(frozen=True)
class ForcedRows:
    """The rows of a scored text.

    Attributes:
        rows: one row for each token from `ForcedText.first_scored` on.
        num_cached: how many tokens were taken from the prefix cache.
    """

    rows: TraceRows
    num_cached: int


Pooling = Literal["none", "mean", "last"]


@dataclass(frozen=True)
class WantedAttention:
    """Which attention weights of a forced text are wanted.

    Attributes:
        layers: decoder layers, numbered from 0.
        history: of how many tokens the weights of each token are wanted: of itself, of the one
            before it, and so on; 0 for none.
        context_mass: also how much of each token's attention goes to the context.
        last_on: (begin, end): also the weights of the text's last token on these positions; an
            end of None is the text's.
    """

    layers: tuple[int, ...]
    history: int = 1
    context_mass: bool = False
    last_on: tuple[int, int | None] | None = None


@dataclass(frozen=True)
class WantedStates:
    """What is wanted of a forced text's way through the layers.

    Attributes:
        layers: hidden states, in the numbering of transformers' `hidden_states`: 0 is the
            embeddings, i the output of decoder layer i - 1, and the number of layers is the last
            one's after the final norm.
        pooling: none for one state a token, else their mean, or the last token's.
        completion_only: count the completion's tokens only, and not its context's.
        attention: the weights that are wanted beside, of the same tokens.
    """

    layers: tuple[int, ...] = ()
    pooling: Pooling = "mean"
    completion_only: bool = False
    attention: WantedAttention | None = None


@dataclass(frozen=True)
class ForcedAttention:
    """Attention weights of a text's n tokens: softmax probabilities of one head at a time.

    Attributes:
        weights: (layers, n, heads, history) float32: what a token pays to itself, to the one
            before it, ...; 0 where there is none.
        context_mass: (layers, n, heads) float32: the sum of what a token pays to the context;
            None if nobody wants it.
        last: (layers, heads, end - begin) float32: what the last token pays to the positions
            `WantedAttention.last_on`; None if nobody wants it.
    """

    weights: NDArray[np.float32]
    context_mass: NDArray[np.float32] | None = None
    last: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class ForcedStates:
    """Hidden states of a text: each is what the model has after it has read that token.

    Attributes:
        states: (layers, n, hidden size) float32; n = 1 if pooled, else the number of tokens.
        num_cached: how many tokens were taken from the prefix cache.
        attention: the weights, if any are wanted.
    """

    states: NDArray[np.float32]
    num_cached: int
    attention: ForcedAttention | None = None


@dataclass(frozen=True)
class ForcedLabels:
    """The log-probabilities of several tokens after one context.

    Attributes:
        logprobs: (labels,) in nats.
        num_tokens: how many tokens were forced to find out.
        num_cached: how many of them were taken from the prefix cache.
    """

    logprobs: NDArray[np.floating]
    num_tokens: int
    num_cached: int
