"""What a running engine gives of a text's hidden states and attention weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from vllm.engine.protocol import EngineClient

from conf_server.engine.client.state_forcing import force_states
from conf_server.stats.forced import ForcedStates, ForcedText, WantedAttention, WantedStates

LAYERS_READ: Final = 9
"""Most layers of a model that are compared: all states of all layers may be gigabytes."""
HISTORY: Final = 2
"""The weights that are compared: of each token on itself, and on the one before it."""


@dataclass(frozen=True)
class InnerReading:
    """Hidden states and attention weights of the last n tokens of a text.

    Attributes:
        text: the text's name.
        kind: `prompt` (nothing in the cache) or `cached` (after a hit in the prefix cache).
        token_ids: the whole text.
        layers: the states' layers, 0 the embeddings.
        states: (layers, n, d) float32.
        attention_layers: the weights' layers, 0 the first decoder layer; empty for none.
        weights: (attention layers, n, heads, HISTORY) float32; None for none.
    """

    text: str
    kind: str
    token_ids: list[int]
    layers: tuple[int, ...]
    states: NDArray[np.float32]
    attention_layers: tuple[int, ...] = ()
    weights: NDArray[np.float32] | None = None

    @property
    def first(self) -> int:
        """The position in the text of the first of the n tokens."""
        return len(self.token_ids) - self.states.shape[1]


def spread(count: int) -> tuple[int, ...]:
    """At most `LAYERS_READ` of the numbers 0..count-1, the first and the last among them."""
    return tuple(sorted(set(np.linspace(0, count - 1, LAYERS_READ).round().astype(int).tolist())))


async def read_inner(
    engine: EngineClient, texts: Mapping[str, list[int]], block_size: int, support: Any
) -> list[InnerReading]:
    """Each text whole, and the end of each that is longer than a block after its cached beginning.

    Every text has a cache salt of its own, so that no reading finds another's work in the cache.

    Args:
        support: a `StatesSupport` without an obstacle.
    """
    giving = [layer for layer, obstacle in enumerate(support.attention) if obstacle is None]
    chosen = tuple(giving[index] for index in spread(len(giving))) if giving else ()
    layers = spread(support.num_layers + 1)
    attention = WantedAttention(chosen, HISTORY) if chosen else None

    async def forced(name: str, kind: str, ids: list[int], context: int) -> ForcedStates:
        wanted = WantedStates(layers, "none", context > 0, attention)
        request_id = f"conf-server-check-{name}-inner-{kind}"
        text = ForcedText(ids, context)
        return await force_states(engine, text, wanted, request_id, cache_salt=f"inner-{name}")

    found = []
    for name, ids in texts.items():
        contexts = {"prompt": 0}
        if len(ids) > block_size:
            # Half of a long text is left to compare. The first run has filled the cache.
            contexts["cached"] = max((len(ids) - 1) // block_size // 2, 1) * block_size
        for kind, context in contexts.items():
            given = await forced(name, kind, ids, context)
            if context and not given.num_cached:
                continue
            weights = None if given.attention is None else given.attention.weights
            found.append(InnerReading(name, kind, ids, layers, given.states, chosen, weights))
    return found
