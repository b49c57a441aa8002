"""One run of a text that the engine did not write: a prefill, and what the workers took of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import aclosing

from vllm.engine.protocol import EngineClient
from vllm.exceptions import GenerationError
from vllm.inputs import tokens_input
from vllm.lora.request import LoRARequest
from vllm.outputs import RequestOutput
from vllm.sampling_params import RequestOutputKind, SamplingParams

from conf_server.engine.marks import PromptMark, StatesMark, set_mark


async def force(
    engine: EngineClient,
    token_ids: Sequence[int],
    mark: PromptMark | StatesMark,
    request_id: str,
    read_cache: bool,
    *,
    prompt_logprobs: int | None = None,
    lora_request: LoRARequest | None = None,
    cache_salt: str | None = None,
    priority: int = 0,
    trace_headers: Mapping[str, str] | None = None,
) -> RequestOutput:
    """Let the engine read a text, and return what it made of it.

    Args:
        mark: what the workers are to take.
        read_cache: whether positions may come from the prefix cache.
        prompt_logprobs: as vLLM's sampling parameter, where its own workers make the rows.

    Raises:
        GenerationError: the engine failed.
    """
    params = SamplingParams(
        max_tokens=1,
        temperature=0.0,
        prompt_logprobs=prompt_logprobs,
        skip_reading_prefix_cache=not read_cache,
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )
    set_mark(params, mark)
    results = engine.generate(
        tokens_input(list(token_ids), cache_salt=cache_salt),
        params,
        request_id,
        lora_request=lora_request,
        priority=priority,
        trace_headers=trace_headers,
    )
    async with aclosing(results):
        async for result in results:
            if result.finished:
                if any(output.finish_reason == "error" for output in result.outputs):
                    raise GenerationError("The engine failed on a text that it was to read.")
                return result
    raise GenerationError("The engine gave no answer to a text that it was to read.")
