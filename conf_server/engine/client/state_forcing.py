"""Hidden states of a text that the engine did not write: teacher forcing for what lies within."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import aclosing
from typing import Any

import numpy as np
from vllm.engine.protocol import EngineClient
from vllm.exceptions import GenerationError
from vllm.inputs import tokens_input
from vllm.lora.request import LoRARequest
from vllm.outputs import RequestOutput
from vllm.sampling_params import RequestOutputKind, SamplingParams

from conf_server.engine.marks import StatesMark, set_mark
from conf_server.stats.forced import ForcedStates, ForcedText, WantedStates


async def force_states(
    engine: EngineClient,
    text: ForcedText,
    wanted: WantedStates,
    request_id: str,
    *,
    lora_request: LoRARequest | None = None,
    cache_salt: str | None = None,
    priority: int = 0,
    trace_headers: Mapping[str, str] | None = None,
) -> ForcedStates:
    """Compute the hidden states of a text in one prefill.

    Positions that do not count may come from the prefix cache. Where another scheduler lets a hit
    go on, the text runs a second time without the cache. If the caller is cancelled, the request
    is aborted.

    Raises:
        GenerationError: the engine failed, or gave no states for what it computed.
    """
    first = text.num_context if wanted.completion_only else 0
    if wanted.pooling == "last":
        first = len(text.token_ids) - 1  # the others need not even be computed

    async def run(read_cache: bool, run_id: str) -> RequestOutput:
        results = engine.generate(
            tokens_input(text.token_ids, cache_salt=cache_salt),
            _params(StatesMark(first, wanted.layers, wanted.pooling), read_cache),
            run_id,
            lora_request=lora_request,
            priority=priority,
            trace_headers=trace_headers,
        )
        async with aclosing(results):
            async for result in results:
                if result.finished:
                    return result
        raise GenerationError("The engine gave no answer to a request for hidden states.")

    rows = 1 if wanted.pooling != "none" else len(text.token_ids) - first
    for read_cache, run_id in ((first > 0, request_id), (False, f"{request_id}-uncached")):
        result = await run(read_cache, run_id)
        states = _states(result, len(wanted.layers), rows)
        if states is not None:
            return ForcedStates(states, result.num_cached_tokens or 0)
        if not read_cache:
            break
    raise GenerationError("The engine gave no hidden states for a request that asked for them.")


def _params(mark: StatesMark, read_cache: bool) -> SamplingParams:
    params = SamplingParams(
        max_tokens=1,
        temperature=0.0,
        skip_reading_prefix_cache=not read_cache,
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )
    set_mark(params, mark)
    return params


def _states(result: RequestOutput, layers: int, rows: int) -> Any:
    """(layers, rows, d), or None where some position came from a cache.

    Raises:
        GenerationError: the engine has ended the request with an error.
    """
    if any(output.finish_reason == "error" for output in result.outputs):
        raise GenerationError("The engine failed on a request for hidden states.")
    given: Any = result.prompt_logprobs
    if not isinstance(given, np.ndarray):
        return None
    if given.shape[:2] != (layers, rows):
        raise GenerationError(f"The engine gave hidden states of shape {given.shape}.")
    return given
