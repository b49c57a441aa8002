"""What is left in the processes of requests that have ended: nothing. V1, one engine."""

from __future__ import annotations

import asyncio
import gc
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from vllm.exceptions import VLLMValidationError
from vllm.inputs import tokens_input
from vllm.outputs import CompletionOutput
from vllm.sampling_params import SamplingParams

from conf_server.engine.client.async_llm import ConfidenceAsyncLLM
from conf_server.engine.client.teacher_forcing import ForcedText, WantedRows, teacher_force
from conf_server.engine.marks import SamplesMark, set_mark
from conf_server.stats.early_stop import STOP_REASON, EarlyStop
from conf_server.stats.trace import TokenTrace
from tests.engine.small_engine import CHUNK, answer, small_engine
from tests.engine.telling_scheduler import TellingScheduler
from tests.tiny_model import write_tiny_model

PROMPT = list(range(1000, 1020))
TEXT = list(range(2000, 2000 + 5 * CHUNK))
EXTENSION = "tests.engine.telling_extension.TellingExtension"
MANY = 200  # tokens: an answer that is not over when its client leaves
NEVER = EarlyStop(-1.0, 4, 4)
ALWAYS = EarlyStop(1000.0, 4, 4)


@dataclass
class Left:
    """What each process still has.

    Attributes:
        traces: traces in the client's process.
        states: requests in its output processor.
        no_rows: whether the scheduler keeps no rows, no request and no block.
        requests: what the worker knows.
    """

    traces: int
    states: int
    no_rows: bool
    requests: list[str]


def traces() -> int:
    gc.collect()
    return sum(isinstance(thing, TokenTrace) for thing in gc.get_objects())


async def generate(
    engine: ConfidenceAsyncLLM, name: str, max_tokens: int, early_stop: EarlyStop | None = NEVER
) -> CompletionOutput:
    params = SamplingParams(max_tokens=max_tokens, temperature=0, ignore_eos=True, logprobs=2)
    set_mark(params, SamplesMark(3, deferred=True, early_stop=early_stop))
    return await answer(engine, name, PROMPT, params)


async def stop_early(engine: ConfidenceAsyncLLM, name: str) -> None:
    output = await generate(engine, name, MANY, ALWAYS)
    assert (output.stop_reason, len(output.token_ids)) == (STOP_REASON, 4)


async def force(engine: ConfidenceAsyncLLM, name: str) -> None:
    wanted = WantedRows(3, candidates=2, statistics=True)
    await teacher_force(engine, ForcedText(TEXT, 9), wanted, name)


async def refuse(engine: ConfidenceAsyncLLM, name: str, **too_large: int) -> None:
    """Send what fails to be serialized on its way to the engine."""
    params = SamplingParams(n=2 if name == "two" else 1, max_tokens=2, logprobs=2)
    with pytest.raises(VLLMValidationError, match="cannot be serialized"):
        async for _ in engine.generate(tokens_input(PROMPT), params, name, **too_large):
            pass


async def known_to_worker(engine: ConfidenceAsyncLLM) -> list[str]:
    (requests,) = await engine.collective_rpc("requests_left")
    return requests


async def leave(request: Any, engine: ConfidenceAsyncLLM) -> None:
    """Cancel the coroutine of a request that the worker has begun with, as a lost client does."""
    task = asyncio.create_task(request)
    while not task.done() and not await known_to_worker(engine):
        pass
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def run(model: Path, how: str, **given: Any) -> Left:
    telling = {"scheduler_cls": TellingScheduler, "worker_extension_cls": EXTENSION}
    async with small_engine(model, **telling, **given) as engine:
        before = traces()
        if how == "finished":
            await asyncio.gather(generate(engine, "a", 5), force(engine, "b"))
        elif how == "stopped":
            await asyncio.gather(*(stop_early(engine, f"{n}") for n in range(1000)))
        elif how == "refused":
            for name in ("one", "two"):
                await refuse(engine, name, priority=10**30)
        else:
            await leave(generate(engine, "a", MANY), engine)
            await leave(force(engine, "b"), engine)
        # The worker hears of a request's end with its next step.
        for _ in range(100):
            if not (requests := await known_to_worker(engine)):
                break
            await asyncio.sleep(0.05)
        return Left(
            traces() - before,
            len(engine.output_processor.request_states),
            await engine.reset_prefix_cache(),
            requests,
        )


@pytest.mark.parametrize("how", ["finished", "aborted", "refused"])
def test_nothing_is_left_of_requests_that_have_ended(model_path: Path, how: str) -> None:
    assert asyncio.run(run(model_path, how)) == Left(0, 0, True, [])


def test_nothing_is_left_of_a_thousand_that_were_ended_early(
    model_path: Path, tmp_path: Path
) -> None:
    tiny = write_tiny_model(model_path, tmp_path)
    crowd = {"max_num_seqs": 64, "max_num_batched_tokens": 512}
    assert asyncio.run(run(tiny, "stopped", **crowd)) == Left(0, 0, True, [])
