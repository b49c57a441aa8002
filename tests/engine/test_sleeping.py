"""An engine that gives way to a scorer, and goes on as if nothing had been. V1, one engine.

A CPU has no memory to give away: here the engine only stops, at sleep level 0, with the same
treatment of its requests. e2e/test_gpu has it give its memory away.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest
from vllm.outputs import CompletionOutput
from vllm.sampling_params import SamplingParams

from conf_server.backends.base import Caller, ForcingJob
from conf_server.backends.transformers_options import TransformersOptions
from conf_server.engine.client.async_llm import ConfidenceAsyncLLM
from conf_server.engine.client.sleeper import EngineSleeper
from conf_server.engine.client.teacher_forcing import ForcedText, WantedRows, teacher_force
from conf_server.engine.marks import SamplesMark, set_mark
from conf_server.refusal import RefusalError
from conf_server.scorer.scorer_backend import ScorerBackend
from conf_server.scorer.supervisor import RunningScorer, Supervisor
from conf_server.scorer.turns import ScorerInTurn, Turns
from tests.engine.small_engine import answer, small_engine
from tests.processes import runs_scorer

PROMPT = list(range(1000, 1020))
TEXT = ForcedText(list(range(2000, 2100)), 9)
JOBS = [ForcingJob(TEXT, 0, "text")]
WANTED = WantedRows(3, candidates=2, statistics=True)


async def generate(engine: ConfidenceAsyncLLM, name: str, max_tokens: int) -> CompletionOutput:
    params = SamplingParams(max_tokens=max_tokens, temperature=0, ignore_eos=True, logprobs=2)
    set_mark(params, SamplesMark(3, deferred=True))
    return await answer(engine, name, PROMPT, params)


async def never_there(on_device: bool) -> None:
    """Weights that need no moving."""


async def test_what_has_begun_ends_before_and_what_comes_waits(model_path: Path) -> None:
    async with small_engine(model_path) as engine:
        alone = await generate(engine, "alone", 60)
        forced = await teacher_force(engine, TEXT, WANTED, "forced alone")
        sleeper = EngineSleeper(engine, level=0)
        turns = Turns(sleeper, never_there)
        begun = [asyncio.create_task(generate(engine, f"begun {n}", 60)) for n in range(3)]
        while engine.get_num_unfinished_requests() < len(begun):
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.2)  # some tokens later
        async with turns.of_scorer():
            assert all(task.done() for task in begun)
            assert not sleeper.is_asked()
            late = asyncio.create_task(generate(engine, "late", 60))
            late_text = asyncio.create_task(teacher_force(engine, TEXT, WANTED, "late text"))
            await asyncio.sleep(2)
            assert sleeper.is_asked()
            assert not late.done()
            assert not late_text.done()
            assert engine.silence_s == 0  # nobody takes it for dead
        for task in (*begun, late):
            made = await asyncio.wait_for(task, 60)
            assert made.token_ids == alone.token_ids
        again = await asyncio.wait_for(late_text, 60)
        assert again.rows.logprobs == pytest.approx(forced.rows.logprobs, abs=1e-4)
        assert engine.silence_s == 0


@pytest.fixture
def scorer(model_path: Path) -> Iterator[RunningScorer]:
    """A real process, whose weights come and go: on a CPU to where they are already."""
    options = TransformersOptions(
        str(model_path), dtype="float32", device="cpu", max_len=8192, parked=True
    )
    with Supervisor(options, max_queue=8) as running:
        yield running


async def test_a_scorer_that_is_killed_in_its_turn_leaves_the_engine_awake(
    model_path: Path, scorer: RunningScorer
) -> None:
    assert scorer.in_turn
    async with small_engine(model_path) as engine:
        process = ScorerBackend(scorer.path, scorer.hello)
        reader = ScorerInTurn(process, EngineSleeper(engine, level=0))
        (forced,) = await reader.force(JOBS, WANTED, Caller("short"))
        own = await teacher_force(engine, TEXT, WANTED, "by the engine")
        assert forced.rows.logprobs == pytest.approx(own.rows.logprobs, abs=1e-3)
        long = [ForcingJob(ForcedText([1000] * 8000, 9), 0, "long")]
        reading = asyncio.create_task(reader.force(long, WANTED, Caller("long")))
        while not await engine.is_sleeping():
            await asyncio.sleep(0.01)
        (child,) = filter(runs_scorer, psutil.Process().children(recursive=True))
        waiting = asyncio.create_task(generate(engine, "waiting", 3))
        await asyncio.sleep(0.5)
        assert not waiting.done()
        child.kill()
        with pytest.raises(RefusalError) as refused:
            await reading
        assert refused.value.status == 503
        assert len((await asyncio.wait_for(waiting, 30)).token_ids) == 3
        await process.close()
