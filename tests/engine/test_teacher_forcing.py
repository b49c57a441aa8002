"""Forced texts on vLLM's V1 model runner when memory is short and steps are small."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
from prometheus_client import REGISTRY
from vllm import AsyncEngineArgs
from vllm.inputs import tokens_input
from vllm.sampling_params import RequestOutputKind, SamplingParams

from conf_server.engine.async_llm import ConfidenceAsyncLLM
from conf_server.engine.scheduler import use_our_scheduler
from conf_server.engine.teacher_forcing import ForcedRows, ForcedText, WantedRows, teacher_force
from conf_server.engine.token_statistics_support import WORKER_EXTENSION
from tests.reference import Reference, token_statistics

BLOCK = 32
# One block is vLLM's own. Two prompts and TEXT just fit into the others, and a few generated
# tokens later no longer, while TEXT is half way through its chunks.
BLOCKS = 13
CHUNK = 48  # tokens a step
TOP_K = 5
TEXT = list(range(1000, 1300))
FIRST = 70
GENERATED = 60


@asynccontextmanager
async def small_engine(model: Path) -> AsyncIterator[ConfidenceAsyncLLM]:
    arguments = AsyncEngineArgs(
        model=str(model),
        dtype="float32",
        enforce_eager=True,
        block_size=BLOCK,
        num_gpu_blocks_override=BLOCKS,
        gpu_memory_utilization=0.1,
        max_model_len=352,
        max_num_batched_tokens=CHUNK,
        max_num_seqs=8,
        worker_extension_cls=WORKER_EXTENSION,
    )
    config = arguments.create_engine_config()
    use_our_scheduler(config)
    engine = ConfidenceAsyncLLM.from_vllm_config(config)
    try:
        assert await engine.collective_rpc("install_token_statistics") == [True]
        yield engine
    finally:
        engine.shutdown()


async def generate(engine: ConfidenceAsyncLLM, name: str, prompt: list[int]) -> list[int]:
    params = SamplingParams(
        max_tokens=GENERATED,
        temperature=0,
        ignore_eos=True,
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )
    async for output in engine.generate(tokens_input(prompt), params, name):
        final: Any = output
    return list(final.outputs[0].token_ids)


async def force(engine: ConfidenceAsyncLLM, name: str) -> ForcedRows:
    wanted = WantedRows(TOP_K, candidates=2, statistics=True, ranks=True)
    return await teacher_force(engine, ForcedText(TEXT, FIRST), wanted, name)


async def crowd(model: Path) -> tuple[list[ForcedRows], list[list[int]], float]:
    """Forced texts among answers that need their memory, and how often one gave way."""
    async with small_engine(model) as engine:
        prompts = {f"generated-{n}": list(range(500 + n, 528 + n)) for n in range(2)}
        results = await asyncio.gather(
            *(generate(engine, name, prompt) for name, prompt in prompts.items()),
            *(force(engine, f"forced-{n}") for n in range(2)),
        )
        forced = [result for result in results if isinstance(result, ForcedRows)]
        generated = [result for result in results if isinstance(result, list)]
        labels = {"engine": "0", "model_name": str(model)}
        return forced, generated, REGISTRY.get_sample_value("vllm:num_preemptions_total", labels)


def test_chunks_preemption_and_company_change_nothing(
    model_path: Path, reference: Reference
) -> None:
    forced, generated, preemptions = asyncio.run(crowd(model_path))
    assert preemptions > 0
    expected = reference.logprobs(TEXT)[FIRST - 1 :]
    own = expected[np.arange(len(expected)), TEXT[FIRST:]]
    assert len(forced) == len(generated) == 2
    for answer in forced:
        rows = answer.rows
        assert rows.token_ids.tolist() == TEXT[FIRST:]
        np.testing.assert_allclose(rows.logprobs, own, atol=1e-3)
        np.testing.assert_allclose(rows.statistics, token_statistics(expected, TOP_K), atol=2e-3)
        np.testing.assert_allclose(
            rows.candidate_logprobs, -np.sort(-expected, axis=1)[:, :2], atol=1e-3
        )
        np.testing.assert_allclose(rows.ranks, (expected >= own[:, None]).sum(axis=1), rtol=1e-2)
