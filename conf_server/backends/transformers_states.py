"""What is kept of a text's way through the layers, reduced as soon as a layer has run."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from conf_server.stats.forced import ForcedAttention, ForcedText, WantedStates


class _Weights(NamedTuple):
    """Of one layer: (n, heads, history), (n, heads) and (heads, end - begin), as wanted."""

    near: NDArray[np.float32]
    mass: NDArray[np.float32] | None
    last: NDArray[np.float32] | None


class TakenText:
    """Hidden states and attention weights of one text, in the meaning of `WantedStates`."""

    def __init__(self, text: ForcedText, wanted: WantedStates) -> None:
        self._text = text
        self.wanted = wanted
        self._length = len(text.token_ids)
        self._first = text.num_context if wanted.completion_only else 0
        self._states: dict[int, NDArray[np.float32]] = {}
        self._weights: dict[int, _Weights] = {}

    @property
    def attention_layers(self) -> tuple[int, ...]:
        """The decoder layers whose weights are wanted."""
        return () if self.wanted.attention is None else self.wanted.attention.layers

    def take_states(self, layer: int, made: Tensor) -> None:
        """
        Args:
            made: (T, d), of the text's tokens and of padding behind them.
        """
        if layer not in self.wanted.layers:
            return
        rows = made[self._first : self._length]
        if self.wanted.pooling == "mean":
            rows = rows.double().mean(0, keepdim=True)
        elif self.wanted.pooling == "last":
            rows = rows[-1:]
        self._states[layer] = _kept(rows)

    def take_weights(self, layer: int, made: Tensor) -> None:
        """
        Args:
            made: (heads, T, T): row p is what token p pays to each token.
        """
        wanted = self.wanted.attention
        if wanted is None or layer not in wanted.layers:
            return
        made = made[:, : self._length, : self._length]
        mass = last = None
        if wanted.context_mass:
            paid = made[:, self._first_weighed :, : self._text.num_context]
            mass = _kept(paid.sum(-1, dtype=torch.float32).T)
        if wanted.last_on is not None:
            begin, end = wanted.last_on
            last = _kept(made[:, -1, begin : self._length if end is None else end])
        self._weights[layer] = _Weights(self._near(made, wanted.history), mass, last)

    @property
    def _first_weighed(self) -> int:
        """The first token whose own weights count; the last one where only `last_on` is wanted."""
        wanted = self.wanted.attention
        alone = wanted is not None and not (wanted.history or wanted.context_mass)
        return self._length - 1 if alone and not self.wanted.layers else self._first

    def _near(self, made: Tensor, history: int) -> NDArray[np.float32]:
        """(n, heads, history): what each token pays to itself, to the one before, ..."""
        first = self._first_weighed
        near = np.zeros((self._length - first, made.shape[0], history), np.float32)
        for back in range(min(history, self._length)):
            begin = max(first, back)  # the first token that has one so far before it
            paid = made.diagonal(-back, 1, 2)[:, begin - back :]
            near[begin - first :, :, back] = _kept(paid.T)
        return near

    def states(self) -> NDArray[np.float32]:
        """(layers, n, d), in the order in which the layers are named."""
        if not self.wanted.layers:
            return np.empty((0, 0, 0), np.float32)
        return np.stack([self._states[layer] for layer in self.wanted.layers])

    def attention(self) -> ForcedAttention | None:
        """The weights, if any are wanted."""
        wanted = self.wanted.attention
        if wanted is None:
            return None
        parts = [self._weights[layer] for layer in wanted.layers]
        mass = [part.mass for part in parts if part.mass is not None]
        last = [part.last for part in parts if part.last is not None]
        return ForcedAttention(
            np.stack([part.near for part in parts]),
            np.stack(mass) if mass else None,
            np.stack(last) if last else None,
        )


def _kept(values: Tensor) -> NDArray[np.float32]:
    """A copy of some values, so that the layer they are of can go."""
    return values.to("cpu", torch.float32, copy=True).numpy()
