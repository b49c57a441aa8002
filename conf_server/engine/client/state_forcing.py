"""Hidden states of a text that the engine did not write: teacher forcing for what lies within."""

from __future__ import annotations

from typing import Any

import numpy as np
from vllm.engine.protocol import EngineClient
from vllm.exceptions import GenerationError
from vllm.outputs import RequestOutput

from conf_server.engine.client.forced_run import force
from conf_server.engine.marks import StatesMark
from conf_server.stats.forced import ForcedStates, ForcedText, WantedStates


async def force_states(
    engine: EngineClient,
    text: ForcedText,
    wanted: WantedStates,
    request_id: str,
    **options: Any,
) -> ForcedStates:
    """Compute the hidden states of a text in one prefill.

    Positions that do not count may come from the prefix cache. Where another scheduler lets a hit
    go on, the text runs a second time without the cache. If the caller is cancelled, the request
    is aborted.

    Args:
        options: as for `force`.

    Raises:
        GenerationError: the engine failed, or gave no states for what it computed.
    """
    first = text.num_context if wanted.completion_only else 0
    if wanted.pooling == "last":
        first = len(text.token_ids) - 1  # the others need not even be computed
    rows = 1 if wanted.pooling != "none" else len(text.token_ids) - first
    mark = StatesMark(first, wanted.layers, wanted.pooling)
    result = await force(engine, text.token_ids, mark, request_id, first > 0, **options)
    states = _states(result, len(wanted.layers), rows)
    if states is None and first > 0:
        run_id = f"{request_id}-uncached"
        result = await force(engine, text.token_ids, mark, run_id, False, **options)
        states = _states(result, len(wanted.layers), rows)
    if states is None:
        raise GenerationError("The engine gave no hidden states for a request that asked for them.")
    return ForcedStates(states, result.num_cached_tokens or 0)


def _states(result: RequestOutput, layers: int, rows: int) -> Any:
    """(layers, rows, d), or None where some position came from a cache.

    Raises:
        GenerationError: the states have another shape.
    """
    given: Any = result.prompt_logprobs
    if not isinstance(given, np.ndarray):
        return None
    if given.shape[:2] != (layers, rows):
        raise GenerationError(f"The engine gave hidden states of shape {given.shape}.")
    return given
