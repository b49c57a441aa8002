"""Parts of an answer put together. The engine is played: each request gets what is listed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import numpy as np
import pytest
from vllm.outputs import CompletionOutput, RequestOutput
from vllm.sampling_params import RequestOutputKind, SamplingParams

from conf_server.engine.client.ended_thinking import generate_past_thinking
from conf_server.engine.client.output_processor import SampleTrace
from conf_server.engine.marks import ask_for_rows, early_stop_of
from conf_server.stats.early_stop import STOP_REASON, EarlyStop, ThinkingTokens
from conf_server.stats.row_layout import RowLayout

END = 9
RULE = EarlyStop(1000.0, 1, 1, ThinkingTokens((8,), (END,), (END,)))
PROMPT = {"type": "token", "prompt_token_ids": [1, 2]}

Part = tuple[list[int], str | None, Any]
"""Tokens, finish_reason and stop_reason of all that the engine gives to one request."""

THOUGHT: Part = ([3, 4], "stop", STOP_REASON)
PUT_IN: Part = ([END], "length", None)


class Engine:
    """Gives one part to each request.

    Attributes:
        asked: prompts and parameters that it was asked with.
    """

    def __init__(self, *parts: Part) -> None:
        self._parts = list(parts)
        self.asked: list[tuple[list[int], SamplingParams]] = []

    async def generate(
        self, prompt: Any, params: SamplingParams, request_id: str, **options: Any
    ) -> AsyncGenerator[RequestOutput, None]:
        ids = prompt["prompt_token_ids"]
        self.asked.append((ids, params))
        tokens, finish_reason, stop_reason = self._parts.pop(0)
        rows: Any = SampleTrace(RowLayout(0))
        column = np.array(tokens, np.int32).reshape(-1, 1)
        rows.trace.append(column, -column.astype(np.float32), np.ones(len(tokens), np.int32))
        text = "".join(map(str, tokens))
        output = CompletionOutput(0, text, tokens, None, rows, None, finish_reason, stop_reason)
        yield RequestOutput(request_id, None, ids, None, [output], finish_reason is not None)


def answer(engine: Engine, **fields: Any) -> list[RequestOutput]:
    given = {"max_tokens": 10, "output_kind": RequestOutputKind.FINAL_ONLY, **fields}
    params = SamplingParams(**given)
    ask_for_rows(params, 0, 0, at_end=True, early_stop=RULE)

    async def taken() -> list[RequestOutput]:
        results = generate_past_thinking(engine.generate, PROMPT, params, "r", 100, {})
        return [result async for result in results]

    return asyncio.run(taken())


def test_each_part_is_asked_for_with_all_before_it() -> None:
    engine = Engine(THOUGHT, PUT_IN, ([5, 6], "stop", None))
    (result,) = answer(engine, seed=7, min_tokens=5)
    (output,) = result.outputs
    assert (output.text, list(output.token_ids)) == ("34956", [3, 4, END, 5, 6])
    assert (output.finish_reason, result.finished) == ("stop", True)
    assert result.prompt_token_ids == [1, 2]
    rows: Any = output.logprobs
    assert (rows.trace.all().token_ids.tolist(), rows.thinking_tokens) == ([3, 4, END, 5, 6], 2)
    prompts = [ids for ids, _ in engine.asked]
    assert prompts == [[1, 2], [1, 2, 3, 4], [1, 2, 3, 4, END]]
    first, forced, rest = (params for _, params in engine.asked)
    assert (forced.max_tokens, forced.allowed_token_ids) == (1, [END])
    assert (rest.max_tokens, rest.min_tokens) == (7, 2)
    assert [early_stop_of(params) for params in (first, forced, rest)] == [RULE, None, None]
    assert first.seed == 7
    assert rest.seed not in (None, 7)


@pytest.mark.parametrize(
    ("parts", "ids", "reasons"),
    [
        ([([3, 4], "length", None)], [3, 4], ("length", None)),
        ([([3], "abort", None)], [3], ("abort", None)),
        ([THOUGHT, ([END], "stop", END)], [3, 4, END], ("stop", END)),
        ([THOUGHT, ([], "error", None)], [3, 4], ("error", None)),
    ],
    ids=str,
)
def test_what_ends_a_part_otherwise_ends_the_answer(
    parts: list[Part], ids: list[int], reasons: tuple[str, Any]
) -> None:
    engine = Engine(*parts)
    (output,) = answer(engine)[-1].outputs
    assert list(output.token_ids) == ids
    assert (output.finish_reason, output.stop_reason) == reasons
    assert len(engine.asked) == len(parts)


def test_a_part_that_ends_without_a_word_is_not_asked_for_again() -> None:
    engine = Engine(THOUGHT, ([], None, None))
    assert answer(engine) == []
    assert len(engine.asked) == 2


def test_a_stream_tells_its_end_once_for_all_answers() -> None:
    engine = Engine(THOUGHT, THOUGHT, PUT_IN, PUT_IN, ([5], "stop", None), ([5], "stop", None))
    results = answer(engine, n=2, output_kind=RequestOutputKind.DELTA)
    assert [result.finished for result in results] == [False] * 5 + [True]
    ends = [output.index for result in results for output in result.outputs if output.finished()]
    assert sorted(ends) == [0, 1]
