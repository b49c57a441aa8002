"""Hidden states and attention weights of forced texts against transformers, on V1's runner."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from prometheus_client import REGISTRY
from vllm.sampling_params import SamplingParams

from conf_server.engine.client.async_llm import ConfidenceAsyncLLM
from conf_server.engine.client.state_forcing import force_states
from conf_server.engine.states_support import StatesSupport, install_hidden_states
from conf_server.engine.worker.attention import WatchedAttention
from conf_server.stats.forced import (
    ForcedStates,
    ForcedText,
    Pooling,
    WantedAttention,
    WantedStates,
)
from tests.engine.small_engine import BLOCK, answer, small_engine
from tests.reference import Reference

LAYERS = (0, 1, 15, 29, 30)
ATTENTION = WantedAttention((0, 15, 29), history=2, context_mass=True, last_on=(3, 290))
TEXT = list(range(1000, 1300))
FIRST = 70
SHORT = list(range(2000, 2009))
# As in test_teacher_forcing: a few generated tokens later memory is short.
BLOCKS = 13


def expected(
    reference: Reference, text: list[int], pooling: Pooling = "none", first: int = 0
) -> NDArray[np.float32]:
    """(layers, n, d) of transformers in float32."""
    states = reference.hidden_states(text, LAYERS, first)
    if pooling == "mean":
        return states.mean(1, keepdims=True, dtype=np.float64).astype(np.float32)
    return states[:, -1:] if pooling == "last" else states


def assert_close(found: ForcedStates, right: NDArray[np.float32]) -> None:
    """Within 1e-4 of each layer's largest number: layers differ in size by a factor of hundreds."""
    assert found.states.shape == right.shape
    scale = np.abs(right).max(axis=(1, 2), keepdims=True)
    np.testing.assert_allclose(found.states / scale, right / scale, rtol=0, atol=1e-4)


def assert_same_weights(found: ForcedStates, reference: Reference, first: int) -> None:
    """Within 1e-4: weights are at most 1."""
    right = reference.attention(TEXT, ATTENTION.layers)
    rows = np.arange(first, len(TEXT))
    before = np.where(rows > 0, right[:, :, rows, np.maximum(rows - 1, 0)], 0)
    near = np.stack([right[:, :, rows, rows], before], -1).transpose(0, 2, 1, 3)
    mass = right[:, :, rows, :first].sum(-1).transpose(0, 2, 1)
    assert found.attention is not None
    for given, expected in (
        (found.attention.weights, near),
        (found.attention.context_mass, mass),
        (found.attention.last, right[:, :, -1, slice(*ATTENTION.last_on or ())]),
    ):
        np.testing.assert_allclose(given, expected, rtol=0, atol=1e-4)


async def force(
    engine: ConfidenceAsyncLLM, name: str, text: list[int], first: int = 0, **wanted: Any
) -> ForcedStates:
    wants = WantedStates(LAYERS, completion_only=first > 0, **wanted)
    return await force_states(engine, ForcedText(text, first), wants, name)


async def generate(engine: ConfidenceAsyncLLM, name: str, prompt: list[int]) -> list[int]:
    params = SamplingParams(max_tokens=60, temperature=0, ignore_eos=True)
    return list((await answer(engine, name, prompt, params)).token_ids)


async def everything(model: Path) -> dict[str, Any]:
    """One engine for all that is asked below; starting one takes long."""
    found: dict[str, Any] = {}
    async with small_engine(model, num_gpu_blocks_override=BLOCKS) as engine:
        found["support"] = await install_hidden_states(engine, None, 2**20)
        found["short"] = await force(engine, "short", SHORT, pooling="none")
        for pooling in ("none", "mean", "last"):
            found[pooling] = await force(engine, pooling, TEXT, pooling=pooling)
        for name in ("cold context", "known context"):
            found[name] = await force(engine, name, TEXT, FIRST, pooling="mean")
        prompts = {f"generated-{n}": list(range(500 + n, 528 + n)) for n in range(2)}
        found["alone"] = [await generate(engine, f"a-{n}", p) for n, p in prompts.items()]
        *found["generated"], found["crowded"], found["crowded mean"] = await asyncio.gather(
            *(generate(engine, name, prompt) for name, prompt in prompts.items()),
            force(engine, "crowded", TEXT, pooling="none", attention=ATTENTION),
            force(engine, "crowded mean", TEXT, FIRST, pooling="mean", attention=ATTENTION),
        )
        labels = {"engine": "0", "model_name": str(model)}
        found["preemptions"] = REGISTRY.get_sample_value("vllm:num_preemptions_total", labels)
        (found["hooks"],) = await engine.collective_rpc(_hooks)
        (found["watched"],) = await engine.collective_rpc(_watched)
    return found


def _hooks(worker: Any) -> int:
    """How many hooks there are in the worker's model."""
    modules = worker.model_runner.get_model().modules()
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules)


def _watched(worker: Any) -> int:
    """How many attention layers let somebody look on."""
    modules = worker.model_runner.get_model().modules()
    return sum(isinstance(getattr(module, "impl", None), WatchedAttention) for module in modules)


@pytest.fixture(scope="module")
def found(model_path: Path) -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_ALLOW_INSECURE_SERIALIZATION", "1")  # so that `_hooks` can be sent
        return asyncio.run(everything(model_path))


def test_the_workers_say_what_they_have(found: dict[str, Any]) -> None:
    assert found["support"] == StatesSupport(None, 30, 576, 9, (None,) * 30)


def test_a_text_in_one_step(found: dict[str, Any], reference: Reference) -> None:
    assert_close(found["short"], expected(reference, SHORT))


@pytest.mark.parametrize("pooling", ["none", "mean", "last"])
def test_a_text_in_chunks(found: dict[str, Any], reference: Reference, pooling: Pooling) -> None:
    assert_close(found[pooling], expected(reference, TEXT, pooling))


def test_of_the_last_token_nothing_else_has_to_be_computed(found: dict[str, Any]) -> None:
    assert found["last"].num_cached == (len(TEXT) - 1) // BLOCK * BLOCK


def test_a_completions_context_comes_from_the_prefix_cache(
    found: dict[str, Any], reference: Reference
) -> None:
    right = expected(reference, TEXT, "mean", FIRST)
    assert found["known context"].num_cached == FIRST // BLOCK * BLOCK
    for name in ("cold context", "known context"):
        assert_close(found[name], right)


def test_preemption_and_company_change_nothing(found: dict[str, Any], reference: Reference) -> None:
    assert found["preemptions"] > 0
    assert_close(found["crowded"], expected(reference, TEXT))
    assert_close(found["crowded mean"], expected(reference, TEXT, "mean", FIRST))
    assert found["generated"] == found["alone"]
    assert_same_weights(found["crowded"], reference, 0)
    assert_same_weights(found["crowded mean"], reference, FIRST)


def test_no_hook_is_left(found: dict[str, Any]) -> None:
    assert found["hooks"] == 0
    assert found["watched"] == 0
