"""Whether the workers of this server give hidden states and attention weights, and why not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from vllm.engine.protocol import EngineClient
from vllm.logger import init_logger

from conf_server.settings import HIDDEN_STATES_OFF

logger = init_logger("vllm.conf_server.states_support")


@dataclass(frozen=True)
class StatesSupport:
    """What the workers can give.

    Attributes:
        obstacle: why there are no hidden states; None where there are.
        num_layers: decoder layers of the model.
        hidden_size: numbers in one hidden state.
        num_heads: of attention in a layer.
        attention: for each decoder layer why its attention weights cannot be had; None where they
            can.
    """

    obstacle: str | None
    num_layers: int = 0
    hidden_size: int = 0
    num_heads: int = 0
    attention: tuple[str | None, ...] = ()


NOT_ENABLED: Final = StatesSupport(HIDDEN_STATES_OFF)


async def install_hidden_states(
    engine: EngineClient, statistics: str | None, max_attention_bytes: int
) -> StatesSupport:
    """Have all workers take hidden states and attention weights, before the first request.

    Args:
        max_attention_bytes: of logits and keys in a worker that exist at a time.
        statistics: why the workers compute no token statistics; None where they do. What takes
            hidden states is a part of that.
    """
    if statistics is not None:
        return StatesSupport(f"hidden states need the workers' statistics: {statistics}")
    answers = await engine.collective_rpc("install_hidden_states", args=(max_attention_bytes,))
    found = [
        StatesSupport(obstacle, layers, size, heads, tuple(attention))
        for obstacle, layers, size, heads, attention in answers
    ]
    support = next((each for each in found if each.obstacle is not None), found[0])
    if support.obstacle is not None:
        logger.warning("No hidden states: %s.", support.obstacle)
        return support
    support = replace(support, attention=_anywhere([each.attention for each in found]))
    logger.info("Hidden states: %d layers of size %d.", support.num_layers, support.hidden_size)
    _log_attention(support)
    return support


def _anywhere(workers: Sequence[tuple[str | None, ...]]) -> tuple[str | None, ...]:
    """For each layer the first obstacle that any of the workers has."""
    return tuple(next(filter(None, layer), None) for layer in zip(*workers, strict=True))


def _log_attention(support: StatesSupport) -> None:
    given = support.attention.count(None)
    logger.info("Attention weights: %d of %d layers.", given, support.num_layers)
    for obstacle in dict.fromkeys(filter(None, support.attention)):
        logger.warning("No attention weights: %s.", obstacle)
