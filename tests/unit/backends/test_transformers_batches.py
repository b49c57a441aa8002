"""Whose text is read when. No model."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from typing import Any

import pytest

from conf_server.backends.transformers_batches import BatchLimits, ForcedBatches, ModelThread
from conf_server.backends.transformers_forward import ForcedWork
from conf_server.refusal import RefusalError
from conf_server.stats.forced import ForcedText, WantedAttention, WantedRows, WantedStates

ROWS = WantedRows(1, 0, statistics=True)
WEIGHTS = WantedStates(attention=WantedAttention((0,)))


def work(length: int, name: int, wanted: Any = ROWS) -> ForcedWork:
    return ForcedWork(ForcedText([name] * length, 0), wanted)


class Reader:
    """Reads batches, once it may go: the result of a text is its first token."""

    def __init__(self, tokens: int = 100) -> None:
        self.thread = ModelThread()
        self.batches = ForcedBatches(self.thread, self.run, BatchLimits(tokens, 400, 1))
        self.read: list[list[int]] = []
        self.may_go = threading.Event()

    def run(self, works: Sequence[ForcedWork]) -> Any:
        self.read.append([one.text.token_ids[0] for one in works])
        assert self.may_go.wait(60)
        return self.read[-1]

    def ask(self, *works: ForcedWork, origin: str = "one") -> list[asyncio.Task[Any]]:
        return [asyncio.create_task(self.batches.result(one, origin)) for one in works]

    async def begun(self) -> None:
        """Until the first batch is being read."""
        while not self.read:
            await asyncio.sleep(0)


async def test_a_batch_is_filled_up_to_its_tokens_with_padding() -> None:
    reader = Reader(tokens=100)
    reader.may_go.set()
    asked = reader.ask(*(work(length, length) for length in (30, 10, 50, 40)))
    assert await asyncio.gather(*asked) == [30, 10, 50, 40]
    # The longest first: fewer tokens are padded.
    assert reader.read == [[50, 40], [30, 10]]


async def test_a_text_over_the_budget_is_read_alone() -> None:
    reader = Reader(tokens=10)
    reader.may_go.set()
    assert await asyncio.gather(*reader.ask(work(500, 1), work(2, 2))) == [1, 2]
    assert reader.read == [[1], [2]]


async def test_a_short_request_does_not_wait_for_a_long_one() -> None:
    reader = Reader(tokens=100)
    long = reader.ask(*(work(50, number) for number in range(1, 9)), origin="long")
    await reader.begun()
    short = reader.ask(work(50, 99), origin="short")
    await asyncio.sleep(0)
    reader.may_go.set()
    await asyncio.gather(*long, *short)
    assert 99 in reader.read[1]
    assert len(reader.read) == 5


async def test_requests_share_batches() -> None:
    reader = Reader(tokens=100)
    reader.may_go.set()
    asked = [task for name in (1, 2, 3) for task in reader.ask(work(10, name), origin=str(name))]
    await asyncio.gather(*asked)
    assert reader.read == [[1, 2, 3]]


async def test_attention_has_batches_of_its_own_with_a_limit_of_its_own() -> None:
    reader = Reader()
    reader.may_go.set()
    # 4 x 1 head x 5 x 5 x 4 bytes are the limit.
    weighed = [work(5, name, WEIGHTS) for name in range(1, 7)]
    await asyncio.gather(*reader.ask(*weighed, work(5, 9)))
    assert reader.read == [[9], [1, 2, 3, 4], [5, 6]]


async def test_what_nobody_waits_for_is_not_read() -> None:
    reader = Reader(tokens=10)
    first, second, third = reader.ask(work(10, 1), work(10, 2), work(10, 3))
    await reader.begun()
    second.cancel()
    first.cancel()
    reader.may_go.set()
    assert await third == 3
    assert reader.read == [[1], [3]]


async def test_a_refusal_is_of_its_text_alone_and_a_failure_of_its_batch() -> None:
    refusal = RefusalError(None, "no memory", status=503)

    def run(works: list[ForcedWork]) -> Any:
        if len(works[0]) == 7:
            raise ValueError("broken")
        return [refusal if len(one) == 3 else "read" for one in works]

    batches = ForcedBatches(ModelThread(), run, BatchLimits(100, 1, 1))
    found = await asyncio.gather(
        batches.result(work(3, 1), "a"), batches.result(work(2, 1), "b"), return_exceptions=True
    )
    assert found == [refusal, "read"]
    with pytest.raises(ValueError, match="broken"):
        await batches.result(work(7, 1), "a")
    assert await batches.result(work(2, 1), "a") == "read"
