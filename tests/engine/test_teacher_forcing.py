"""Forced texts on vLLM's V1 model runner when memory is short and steps are small."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client import REGISTRY
from vllm.config import KVTransferConfig
from vllm.sampling_params import SamplingParams

from conf_server.engine.adoption import adopt
from conf_server.engine.client.async_llm import ConfidenceAsyncLLM
from conf_server.engine.client.teacher_forcing import (
    ForcedRows,
    ForcedText,
    WantedRows,
    teacher_force,
)
from tests.engine.small_engine import BLOCK, answer, small_engine
from tests.reference import Reference, token_statistics

# One block is vLLM's own. Two prompts and TEXT just fit into the others, and a few generated
# tokens later no longer, while TEXT is half way through its chunks.
BLOCKS = 13
TOP_K = 5
TEXT = list(range(1000, 1300))
FIRST = 70
GENERATED = 60


async def generate(engine: ConfidenceAsyncLLM, name: str, prompt: list[int]) -> list[int]:
    params = SamplingParams(max_tokens=GENERATED, temperature=0, ignore_eos=True)
    return list((await answer(engine, name, prompt, params)).token_ids)


async def force(engine: ConfidenceAsyncLLM, name: str) -> ForcedRows:
    wanted = WantedRows(TOP_K, candidates=2, statistics=True, ranks=True)
    return await teacher_force(engine, ForcedText(TEXT, FIRST), wanted, name)


async def crowd(model: Path) -> tuple[list[ForcedRows], list[list[int]], float]:
    """Forced texts among answers that need their memory, and how often one gave way."""
    async with small_engine(model, num_gpu_blocks_override=BLOCKS) as engine:
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
    for text in forced:
        rows = text.rows
        assert rows.token_ids.tolist() == TEXT[FIRST:]
        np.testing.assert_allclose(rows.logprobs, own, atol=1e-3)
        np.testing.assert_allclose(rows.statistics, token_statistics(expected, TOP_K), atol=2e-3)
        np.testing.assert_allclose(
            rows.candidate_logprobs, -np.sort(-expected, axis=1)[:, :2], atol=1e-3
        )
        np.testing.assert_allclose(rows.ranks, (expected >= own[:, None]).sum(axis=1), rtol=1e-2)


class Runs(ConfidenceAsyncLLM):
    """Counts what is asked of it."""

    ids: list[str]

    def generate(self, prompt: Any, params: Any, request_id: str, **options: Any) -> Any:
        self.ids.append(request_id)
        return super().generate(prompt, params, request_id, **options)


async def force_twice(
    model: Path, **given: Any
) -> dict[bool, tuple[ForcedRows, ForcedRows, list[str]]]:
    """A text, the same again with all of it cached, and the runs that took; by `statistics`."""
    answers = {}
    async with small_engine(model, **given) as stock:
        engine = adopt(Runs, stock)
        for statistics in (True, False):
            engine.ids = []
            wanted = WantedRows(TOP_K, candidates=2, statistics=statistics)
            cold, warm = [
                await teacher_force(
                    engine, ForcedText(TEXT, FIRST), wanted, name, cache_salt=str(statistics)
                )
                for name in ("cold", "warm")
            ]
            answers[statistics] = cold, warm, engine.ids
    return answers


CLAIMING = KVTransferConfig(
    kv_connector="ClaimingConnector",
    kv_connector_module_path="tests.engine.claiming_connector",
    kv_role="kv_both",
)


@pytest.mark.parametrize("connector", [None, CLAIMING], ids=["no connector", "all is elsewhere"])
def test_a_cached_text_is_forced_once(
    connector: KVTransferConfig | None, model_path: Path, reference: Reference
) -> None:
    """The connector has nothing in truth: what it loaded would be garbage."""
    answers = asyncio.run(force_twice(model_path, kv_transfer_config=connector))
    for cold, warm, runs in answers.values():
        assert runs == ["cold", "warm"]
        assert (cold.num_cached, warm.num_cached) == (0, FIRST // BLOCK * BLOCK)
        assert_scored(cold, reference)
        assert_scored(warm, reference)


def assert_scored(forced: ForcedRows, reference: Reference) -> None:
    expected = reference.logprobs(TEXT)[FIRST - 1 :]
    own = expected[np.arange(len(expected)), TEXT[FIRST:]]
    assert forced.rows.token_ids.tolist() == TEXT[FIRST:]
    np.testing.assert_allclose(forced.rows.logprobs, own, atol=1e-3)
