"""An engine and a scorer with one GPU: never both at a time, and nobody waits for ever."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from conf_server.backends.base import Caller, ForcingJob
from conf_server.refusal import RefusalError
from conf_server.scorer.scorer_backend import ScorerBackend
from conf_server.scorer.turns import ScorerInTurn, Turns
from conf_server.scorer.wire import Hello
from conf_server.stats.forced import ForcedText, WantedRows
from tests.unit.scorer.listening import WaitingBackend, listening

ROWS = WantedRows(1, 0, statistics=True)
JOBS = [ForcingJob(ForcedText([0, 1, 2], 1), 0, "a")]


@dataclass
class Gpu:
    """One GPU with room for one model, and both who use it: a `Sleeper` and a scorer's `move`."""

    holders: set[str] = field(default_factory=lambda: {"engine"})
    turns: int = 0
    busy: bool = False
    failure: Exception | None = None

    def _take(self, who: str) -> None:
        assert not self.holders, f"{who} comes while {self.holders} are there"
        self.holders.add(who)

    async def sleep(self) -> None:
        await asyncio.sleep(0.01)
        self.holders.remove("engine")

    async def wake_up(self) -> None:
        await asyncio.sleep(0.01)
        self._take("engine")

    def is_asked(self) -> bool:
        return self.busy

    async def move(self, on_device: bool) -> None:
        await asyncio.sleep(0.01)
        if not on_device:
            self.holders.discard("scorer")
            return
        if self.failure is not None:
            raise self.failure
        self._take("scorer")
        self.turns += 1

    async def engine_is_back(self) -> None:
        async with asyncio.timeout(10):
            while self.holders != {"engine"}:
                await asyncio.sleep(0.001)


async def use(turns: Turns, gpu: Gpu, seconds: float = 0.01) -> None:
    async with turns.of_scorer():
        assert gpu.holders == {"scorer"}
        await asyncio.sleep(seconds)
        assert gpu.holders == {"scorer"}


async def test_those_who_come_together_share_a_turn() -> None:
    gpu = Gpu()
    turns = Turns(gpu, gpu.move)
    await asyncio.gather(*(use(turns, gpu) for _ in range(20)))
    await gpu.engine_is_back()
    assert gpu.turns == 1
    await use(turns, gpu)
    await gpu.engine_is_back()
    assert gpu.turns == 2


async def test_a_stream_of_questions_does_not_keep_the_engine_asleep() -> None:
    gpu = Gpu(busy=True)
    turns = Turns(gpu, gpu.move, open_s=0.05)

    async def one_after_another() -> None:
        for _ in range(10):
            await use(turns, gpu, 0.02)

    await asyncio.gather(*(one_after_another() for _ in range(3)))
    await gpu.engine_is_back()
    assert gpu.turns > 1


async def test_an_engine_that_has_work_keeps_the_gpu_as_long_as_the_scorer_had_it() -> None:
    gpu = Gpu(busy=True)
    turns = Turns(gpu, gpu.move, open_s=0.0)
    loop = asyncio.get_running_loop()
    await use(turns, gpu, 0.2)
    second = asyncio.create_task(use(turns, gpu))
    await gpu.engine_is_back()
    began = loop.time()
    await second
    assert loop.time() - began >= 0.15
    await gpu.engine_is_back()


async def test_who_leaves_early_leaves_nothing_behind() -> None:
    gpu = Gpu()
    turns = Turns(gpu, gpu.move)
    waiting, holding = (asyncio.create_task(use(turns, gpu, 60)) for _ in range(2))
    await asyncio.sleep(0)
    waiting.cancel()
    async with asyncio.timeout(10):
        while gpu.holders != {"scorer"}:
            await asyncio.sleep(0.001)
    holding.cancel()
    await asyncio.gather(waiting, holding, return_exceptions=True)
    await gpu.engine_is_back()
    await use(turns, gpu)
    await gpu.engine_is_back()


@pytest.mark.parametrize(
    "failure", [RefusalError(None, "no room", status=503), RuntimeError("broken")]
)
async def test_a_scorer_that_cannot_have_its_turn_is_refused_and_the_engine_wakes_up(
    failure: Exception,
) -> None:
    gpu = Gpu(failure=failure)
    turns = Turns(gpu, gpu.move)
    found = await asyncio.gather(*(use(turns, gpu) for _ in range(3)), return_exceptions=True)
    assert [str(error) for error in found] == [str(failure)] * 3
    await gpu.engine_is_back()
    gpu.failure = None
    await use(turns, gpu)
    await gpu.engine_is_back()


async def test_after_a_scorer_that_has_ended_the_next_has_a_turn_of_its_own() -> None:
    gpu = Gpu()
    turns = Turns(gpu, gpu.move)

    async def cut_off(seconds: float) -> None:
        async with turns.of_scorer():
            await asyncio.sleep(seconds)
            raise RefusalError(None, "the scorer has ended", status=503)

    both = asyncio.gather(cut_off(0.02), cut_off(0.1), return_exceptions=True)
    async with asyncio.timeout(10):
        while gpu.turns == 0:
            await asyncio.sleep(0.001)
    await asyncio.sleep(0.04)  # the first has seen the end, the second has not yet
    await use(turns, gpu)
    assert len(await both) == 2
    assert gpu.turns == 2
    await gpu.engine_is_back()


@asynccontextmanager
async def in_turn(path: Path, gpu: Gpu) -> AsyncIterator[tuple[ScorerInTurn, WaitingBackend]]:
    backend = WaitingBackend(lambda prompt, number: "answer")
    async with listening(backend, path, move=gpu.move) as client:
        yield ScorerInTurn(client, gpu), backend


async def test_texts_are_read_in_the_scorer_s_turn(tmp_path: Path) -> None:
    gpu = Gpu()
    async with in_turn(tmp_path / "scorer", gpu) as (scorer, backend):
        reading = asyncio.create_task(scorer.force(JOBS, ROWS, Caller("request")))
        async with asyncio.timeout(10):
            while not backend.begun:
                await asyncio.sleep(0.001)
        assert gpu.holders == {"scorer"}
        backend.go.set()
        (forced,) = await reading
        assert len(forced.rows) == 2
        await gpu.engine_is_back()


async def test_for_a_scorer_that_is_not_there_the_engine_is_not_put_to_sleep(
    tmp_path: Path,
) -> None:
    gpu = Gpu()
    backend = WaitingBackend(lambda prompt, number: "answer")
    async with listening(backend, tmp_path / "scorer") as client:
        gone = ScorerBackend(str(tmp_path / "nobody"), Hello(client.limits(), "dummy"))
        with pytest.raises(RefusalError) as refused:
            await ScorerInTurn(gone, gpu).force(JOBS, ROWS, Caller("request"))
    assert refused.value.status == 503
    assert gpu.holders == {"engine"}
