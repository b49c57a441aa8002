"""Whole answers of an engine, those that it streams included."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vllm.inputs import tokens_input
from vllm.sampling_params import SamplingParams

from conf_server.engine.client.async_llm import ConfidenceAsyncLLM
from conf_server.stats.columns import TokenStatistic
from conf_server.stats.trace import TraceRows


@dataclass
class Answer:
    """What came: of a stream, put together."""

    ids: list[int]
    text: str
    finish_reason: str | None
    stop_reason: Any
    rows: TraceRows
    thinking_tokens: int | None

    @property
    def confidences(self) -> list[float]:
        assert self.rows.statistics is not None
        values: list[float] = self.rows.statistics[:, TokenStatistic.CONFIDENCE].tolist()
        return values


async def ask(
    engine: ConfidenceAsyncLLM, name: str, prompt: list[int], params: SamplingParams
) -> list[Answer]:
    """The answers to a question by their index."""
    found: dict[int, Answer] = {}
    async for result in engine.generate(tokens_input(prompt), params, name):
        assert result.prompt_token_ids == prompt
        for output in result.outputs:
            rows: Any = output.logprobs
            before = found.get(output.index)
            assert before is None or before.finish_reason is None
            found[output.index] = Answer(
                [*(before.ids if before else ()), *output.token_ids],
                (before.text if before else "") + output.text,
                output.finish_reason,
                output.stop_reason,
                rows.trace.all(),
                rows.thinking_tokens,
            )
    return [found[index] for index in range(params.n)]
