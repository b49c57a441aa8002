"""A request that streams is refused when it is handed over, with vLLM's own checks. No engine."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from vllm import AsyncEngineArgs
from vllm.exceptions import VLLMValidationError
from vllm.inputs import tokens_input
from vllm.sampling_params import RequestOutputKind, SamplingParams, StructuredOutputsParams
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.input_processor import InputProcessor

from conf_server.engine.client.async_llm import ConfidenceAsyncLLM


@pytest.fixture(scope="module")
def engine(model_path: Path) -> ConfidenceAsyncLLM:
    """What `generate` reads of an engine before it asks for anything."""
    config = AsyncEngineArgs(model=str(model_path)).create_engine_config()
    engine = ConfidenceAsyncLLM.__new__(ConfidenceAsyncLLM)
    engine.input_processor = InputProcessor(config)
    engine._supported_tasks = ("generate",)
    return engine


def ask(engine: ConfidenceAsyncLLM, token_id: int = 5, stream: bool = True, **options: Any) -> None:
    kind = RequestOutputKind.DELTA if stream else RequestOutputKind.FINAL_ONLY
    params = SamplingParams(output_kind=kind, max_tokens=2, **options)
    engine.generate(tokens_input(prompt_token_ids=[token_id]), params, "name")


WRONG: list[dict[str, Any]] = [
    {"token_id": 10**30},
    {"thinking_token_budget": 5},
    {"structured_outputs": StructuredOutputsParams(json="{")},
    {"allowed_token_ids": [10**6]},
    {"logprobs": 21},
    {"routed_experts_prompt_start": 2},
]


@pytest.mark.parametrize("options", WRONG, ids=lambda options: next(iter(options)))
def test_a_stream_is_refused_before_it_begins(
    engine: ConfidenceAsyncLLM, options: dict[str, Any]
) -> None:
    with pytest.raises((VLLMValidationError, ValueError)):
        ask(engine, **options)
    ask(engine, stream=False, **options)  # vLLM refuses it where it always did


def test_a_right_stream_is_not(engine: ConfidenceAsyncLLM) -> None:
    ask(engine)
    grammar = StructuredOutputsParams(json={"type": "object"})
    for _ in range(2):  # as vLLM checks it once more
        ask(engine, structured_outputs=grammar)


async def test_the_silence_of_an_engine_that_sleeps_means_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = ConfidenceAsyncLLM.__new__(ConfidenceAsyncLLM)
    processor = SimpleNamespace(heard_at=time.monotonic() - 60, request_states={"one": None})
    engine.output_processor = processor  # type: ignore[assignment]
    awake = set()

    async def sleep(self: AsyncLLM, level: int, mode: str) -> None:
        awake.clear()

    async def wake_up(self: AsyncLLM, tags: list[str] | None) -> None:
        if tags == ["no room"]:
            raise RuntimeError("CUDA out of memory.")
        awake.update(tags or ["weights", "kv_cache"])

    async def is_sleeping(self: AsyncLLM) -> bool:
        return len(awake) < 2

    for name, replaced in (("sleep", sleep), ("wake_up", wake_up), ("is_sleeping", is_sleeping)):
        monkeypatch.setattr(AsyncLLM, name, replaced)
    assert engine.silence_s >= 60
    await engine.sleep(1, "wait")
    assert engine.silence_s == 0
    await engine.wake_up(["weights"])
    assert engine.silence_s == 0
    with pytest.raises(RuntimeError):
        await engine.wake_up(["no room"])
    assert engine.silence_s > 0  # requests wait, and nobody comes to them
    await engine.wake_up(["weights"])
    await engine.wake_up(["kv_cache"])
    assert 0 < engine.silence_s < 50
