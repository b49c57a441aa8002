"""Hidden states and attention weights of a text that the engine did not write."""

from __future__ import annotations

from typing import Any

from vllm.engine.protocol import EngineClient
from vllm.exceptions import GenerationError
from vllm.outputs import RequestOutput

from conf_server.engine.client.forced_run import force
from conf_server.engine.marks import AttentionMark, StatesMark
from conf_server.engine.states_wire import TakenStates
from conf_server.stats.forced import (
    ForcedAttention,
    ForcedStates,
    ForcedText,
    WantedAttention,
    WantedStates,
)


async def force_states(
    engine: EngineClient,
    text: ForcedText,
    wanted: WantedStates,
    request_id: str,
    **options: Any,
) -> ForcedStates:
    """Compute the hidden states and attention weights of a text in one prefill.

    Positions that do not count may come from the prefix cache. Where another scheduler lets a hit
    go on, the text runs a second time without the cache. If the caller is cancelled, the request
    is aborted.

    Args:
        options: as for `force`.

    Raises:
        GenerationError: the engine failed, or gave no states for what it computed.
    """
    mark = _mark(text, wanted)
    result = await force(engine, text.token_ids, mark, request_id, mark.first > 0, **options)
    taken = _taken(result, wanted, mark)
    if taken is None and mark.first > 0:
        run_id = f"{request_id}-uncached"
        result = await force(engine, text.token_ids, mark, run_id, False, **options)
        taken = _taken(result, wanted, mark)
    if taken is None:
        raise GenerationError("The engine gave no hidden states for a request that asked for them.")
    return ForcedStates(taken.states, result.num_cached_tokens or 0, taken.attention)


def _mark(text: ForcedText, wanted: WantedStates) -> StatesMark:
    first = text.num_context if wanted.completion_only else 0
    if wanted.attention is None:
        if wanted.pooling == "last":
            first = len(text.token_ids) - 1  # the others need not even be computed
        return StatesMark(first, wanted.layers, wanted.pooling)
    attention = AttentionMark(
        layers=wanted.attention.layers,
        history=wanted.attention.history,
        context=text.num_context if wanted.attention.context_mass else None,
        last_on=_positions(wanted.attention, text),
    )
    if not wanted.layers and not attention.history and attention.context is None:
        first = len(text.token_ids) - 1
    return StatesMark(first, wanted.layers, wanted.pooling, attention)


def _positions(wanted: WantedAttention, text: ForcedText) -> tuple[int, int] | None:
    if wanted.last_on is None:
        return None
    begin, end = wanted.last_on
    return begin, len(text.token_ids) if end is None else end


def _taken(result: RequestOutput, wanted: WantedStates, mark: StatesMark) -> TakenStates | None:
    """What the workers have taken, or None where some position came from a cache.

    Raises:
        GenerationError: it has another shape than was asked for.
    """
    taken: Any = result.prompt_logprobs
    if not isinstance(taken, TakenStates):
        return None
    num_rows = len(result.prompt_token_ids or ()) - mark.first
    rows = num_rows if wanted.pooling == "none" else 1
    if wanted.layers and taken.states.shape[:2] != (len(wanted.layers), rows):
        raise GenerationError(f"The engine gave hidden states of shape {taken.states.shape}.")
    if not _fits(taken.attention, mark.attention, num_rows):
        raise GenerationError("The engine gave attention weights of another shape than asked for.")
    return taken


def _fits(given: ForcedAttention | None, wanted: AttentionMark | None, num_rows: int) -> bool:
    if given is None or wanted is None:
        return given is None and wanted is None
    layers, rows, heads, history = given.weights.shape
    mass = None if given.context_mass is None else given.context_mass.shape
    last = None if given.last is None else given.last.shape
    on = wanted.last_on
    return (
        (layers, rows, history) == (len(wanted.layers), num_rows, wanted.history)
        and mass == ((layers, rows, heads) if wanted.context is not None else None)
        and last == (None if on is None else (layers, heads, on[1] - on[0]))
    )
