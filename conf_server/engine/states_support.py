"""Whether the workers of this server give hidden states, and why not if not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from vllm.engine.protocol import EngineClient
from vllm.logger import init_logger

logger = init_logger("vllm.conf_server.states_support")


@dataclass(frozen=True)
class StatesSupport:
    """What the workers can give.

    Attributes:
        obstacle: why there are no hidden states; None where there are.
        num_layers: decoder layers of the model.
        hidden_size: numbers in one hidden state.
    """

    obstacle: str | None
    num_layers: int = 0
    hidden_size: int = 0


NOT_ENABLED: Final = StatesSupport(
    "hidden states are off: start the server with --enable-hidden-states"
)


async def install_hidden_states(engine: EngineClient, statistics: str | None) -> StatesSupport:
    """Have all workers take hidden states, before the first request.

    Args:
        statistics: why the workers compute no token statistics; None where they do. What takes
            hidden states is a part of that.
    """
    if statistics is not None:
        return StatesSupport(f"hidden states need the workers' statistics: {statistics}")
    answers = await engine.collective_rpc("install_hidden_states")
    found = [StatesSupport(*answer) for answer in answers]
    support = next((each for each in found if each.obstacle is not None), found[0])
    if support.obstacle is None:
        logger.info("Hidden states: %d layers of size %d.", support.num_layers, support.hidden_size)
    else:
        logger.warning("No hidden states: %s.", support.obstacle)
    return support
