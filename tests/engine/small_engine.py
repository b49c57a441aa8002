"""A V1 engine in this process: small blocks, small steps, our scheduler and workers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from vllm import AsyncEngineArgs
from vllm.inputs import tokens_input
from vllm.outputs import CompletionOutput
from vllm.sampling_params import RequestOutputKind, SamplingParams

from conf_server.engine.client.async_llm import ConfidenceAsyncLLM
from conf_server.engine.core.scheduler import use_our_scheduler
from conf_server.engine.exact_statistics import WORKER_EXTENSION
from tests.devices import HAS_CUDA, SMALL_SHARE

BLOCK = 32
CHUNK = 48  # tokens a step: longer prompts are prefilled in chunks


@asynccontextmanager
async def small_engine(
    model: Path, obstacle: str | None = None, **given: Any
) -> AsyncIterator[ConfidenceAsyncLLM]:
    """
    Args:
        obstacle: what the worker answers when it is asked for token statistics.
        given: engine arguments.
    """
    arguments = {
        "model": str(model),
        "dtype": "float32",
        "enforce_eager": True,
        "block_size": BLOCK,
        "kv_cache_memory_bytes": 2**29,
        "max_model_len": 352,
        "max_num_batched_tokens": CHUNK,
        "max_num_seqs": 8,
        "worker_extension_cls": WORKER_EXTENSION,
    }
    if HAS_CUDA:
        arguments["gpu_memory_utilization"] = SMALL_SHARE
    config = AsyncEngineArgs(**arguments | given).create_engine_config()
    use_our_scheduler(config)
    engine = ConfidenceAsyncLLM.from_vllm_config(config)
    try:
        assert set(await engine.collective_rpc("install_token_statistics")) == {obstacle}
        yield engine
    finally:
        engine.shutdown()


async def answer(
    engine: ConfidenceAsyncLLM, name: str, prompt: list[int], params: SamplingParams
) -> CompletionOutput:
    """What the engine generates, as one output at the end."""
    params.detokenize = False
    params.output_kind = RequestOutputKind.FINAL_ONLY
    async for output in engine.generate(tokens_input(prompt), params, name):
        final: Any = output
    return final.outputs[0]
