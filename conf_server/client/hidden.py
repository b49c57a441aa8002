"""What `/v1/hidden_states` answers."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from conf_server.client.tokens import Json


@dataclass(frozen=True, eq=False)
class HiddenStates:
    """What layers of the model make of one text.

    Attributes:
        index: its position among all that were asked about in one call.
        item: the position of its item among `items`; 0 without them.
        num_tokens: tokens that count.
        layers: those of the first axis of `states`, counted from 0.
        states: float32 of shape (layers, vectors, hidden size), one vector where they are pooled,
            else one a token.
        attention_layers: those of the first axis of each array of `attention`.
        attention: float32 arrays `weights`, `context_mass`, `last_token` and `lookback`, as far as
            they were asked for.
        raw: what the server has sent.
    """

    index: int
    item: int
    num_tokens: int
    layers: tuple[int, ...]
    states: NDArray[np.float32]
    attention_layers: tuple[int, ...]
    attention: Mapping[str, NDArray[np.float32]]
    raw: Json = field(repr=False)

    def row(self) -> dict[str, Any]:
        """Its row in a table, without the arrays."""
        return {name: getattr(self, name) for name in ("index", "item", "num_tokens", "layers")}


def hidden_states_of(answer: Json, found: Json, index: int, item: int) -> HiddenStates:
    """One result of `data`, in base64.

    Args:
        answer: the whole answer.
        index, item: as of `HiddenStates`.
    """
    attention = found.get("attention") or {}
    return HiddenStates(
        index=index,
        item=item,
        num_tokens=found["num_tokens"],
        layers=tuple(answer["layers"]),
        states=_array(found["states"], found["shape"]),
        attention_layers=tuple(answer.get("attention_layers") or ()),
        attention={
            name: _array(one["values"], one["shape"])
            for name, one in attention.items()
            if one is not None
        },
        raw=found,
    )


def _array(text: str, shape: list[int]) -> NDArray[np.float32]:
    return np.frombuffer(base64.b64decode(text), "<f4").astype(np.float32).reshape(shape)
