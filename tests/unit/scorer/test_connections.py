"""Several clients, a bounded queue, and work that ends with whoever wanted it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from conf_server.backends.base import (
    Caller,
    Completion,
    ForcingItem,
    ForcingJob,
    LabelQuestion,
    Plain,
)
from conf_server.backends.dummy import DummyBackend
from conf_server.refusal import RefusalError, TooLongError
from conf_server.scorer import wire
from conf_server.scorer.scorer_backend import ScorerBackend, ScorerFailedError
from conf_server.stats.forced import ForcedText, WantedRows, WantedStates
from tests.unit.scorer.listening import WaitingBackend, listening

ROWS = WantedRows(1, 0, statistics=True)
JOBS = [ForcingJob(ForcedText([0, 1, 2], 1), 0, "a")]
ITEM = ForcingItem(Plain("A b"), (Completion("c"),), "", ("a",))


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.001)


@pytest.fixture
def backend() -> WaitingBackend:
    return WaitingBackend(lambda prompt, number: "answer")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "scorer"


async def test_everything_is_asked_of_the_backend(backend: WaitingBackend, path: Path) -> None:
    twin = DummyBackend(backend.answer)
    backend.go.set()
    wanted = WantedStates((0, 1), "mean")
    async with listening(backend, path) as client:
        assert client.limits() == backend.limits()
        jobs = await client.prepare([ITEM])
        assert jobs == await twin.prepare([ITEM])
        (forced,) = await client.force(jobs, ROWS, Caller("request"))
        (own,) = await twin.force(jobs, ROWS, Caller("request"))
        assert forced.rows.logprobs.tolist() == own.rows.logprobs.tolist()
        (states,) = await client.states(jobs, wanted, Caller("request"))
        (own_states,) = await twin.states(jobs, wanted, Caller("request"))
        assert states.states.tolist() == own_states.states.tolist()


async def test_questions_with_labels_are_made_in_turn(backend: WaitingBackend, path: Path) -> None:
    made, done = [], []

    def question(number: int) -> LabelQuestion:
        made.append(number)
        return LabelQuestion(Plain(f"question {number}"), ("yes", "no")[: number % 2 + 1])

    async with listening(backend, path) as client:
        questions = (lambda number=number: question(number) for number in range(100))
        found = await client.labels(questions, Caller("request"), lambda: done.append(len(made)))
    assert [len(labels.logprobs) for labels in found] == [1, 2] * 50
    assert len(done) == 100
    assert done[0] <= 64  # the others were made when one of these was done


async def test_a_client_s_keys_are_not_passed_on(backend: WaitingBackend, path: Path) -> None:
    seen = []

    async def states(jobs: object, wanted: object, caller: Caller) -> list[object]:
        seen.append(caller)
        return []

    backend.states = states  # type: ignore[assignment]
    async with listening(backend, path) as client:
        caller = Caller("request-states", headers={"authorization": "secret"}, origin="request")
        await client.states(JOBS, WantedStates(), caller)
    assert seen == [Caller("request-states", origin="request")]


async def test_refusals_are_raised_on_the_other_side(backend: WaitingBackend, path: Path) -> None:
    async def prepare(items: object) -> list[ForcingJob]:
        raise TooLongError("items.0", "too long.", 5)

    backend.prepare = prepare  # type: ignore[method-assign]
    async with listening(backend, path) as client:
        with pytest.raises(TooLongError, match=r"^`items\.0`: too long\.$"):
            await client.prepare([ITEM])


async def test_a_mistake_fails_one_question_and_is_logged(
    backend: WaitingBackend, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def states(*_: object) -> list[object]:
        raise ZeroDivisionError("by zero")

    backend.states = states  # type: ignore[assignment]
    async with listening(backend, path) as client:
        with pytest.raises(ScorerFailedError, match="ZeroDivisionError: by zero"):
            await client.states(JOBS, WantedStates(), Caller("request"))
        assert await client.prepare([ITEM])
    assert "ZeroDivisionError" in caplog.text


async def test_cancelled_work_ends(backend: WaitingBackend, path: Path) -> None:
    async with listening(backend, path) as client:
        one = asyncio.create_task(client.force(JOBS, ROWS, Caller("one")))
        two = asyncio.create_task(client.force(JOBS, ROWS, Caller("two")))
        await until(lambda: len(backend.begun) == 2)
        one.cancel()
        await until(lambda: backend.cancelled)
        backend.go.set()
        assert await two
    assert one.cancelled()
    assert backend.cancelled == ["one"]


async def test_work_ends_with_the_client_that_wanted_it(
    backend: WaitingBackend, path: Path
) -> None:
    async with listening(backend, path) as client:
        other = ScorerBackend(str(path), wire.Hello(client.limits(), "dummy"))
        gone = asyncio.create_task(client.force(JOBS, ROWS, Caller("gone")))
        stays = asyncio.create_task(other.force(JOBS, ROWS, Caller("stays")))
        await until(lambda: len(backend.begun) == 2)
        await client.close()
        await until(lambda: backend.cancelled)
        backend.go.set()
        assert await stays
        await other.close()
    assert backend.cancelled == ["gone"]
    with pytest.raises(RefusalError, match="unanswered"):
        await gone


async def test_a_full_queue_refuses_at_once(backend: WaitingBackend, path: Path) -> None:
    async with listening(backend, path, max_queue=1) as client:
        first = Caller("one")
        waiting = [asyncio.create_task(client.force(JOBS, ROWS, first.at(str(i)))) for i in (0, 1)]
        await until(lambda: len(backend.begun) == 2)  # both are parts of one request
        with pytest.raises(RefusalError, match="--scorer-max-queue") as refused:
            await client.force(JOBS, ROWS, Caller("two"))
        assert (refused.value.status, refused.value.kind) == (503, "ServiceUnavailableError")
        backend.go.set()
        await asyncio.gather(*waiting)
        assert await client.force(JOBS, ROWS, Caller("three"))


async def test_without_a_process_a_question_is_refused_until_there_is_one(
    backend: WaitingBackend, path: Path
) -> None:
    client = ScorerBackend(str(path), wire.Hello(backend.limits(), "dummy"))
    with pytest.raises(RefusalError, match="started again") as refused:
        await client.prepare([ITEM])
    assert refused.value.status == 503
    async with listening(backend, path):
        assert await client.prepare([ITEM])
        await client.close()


async def test_too_large_a_frame_closes_the_connection_and_says_so(
    backend: WaitingBackend, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with listening(backend, path) as client:
        reader, writer = await asyncio.open_unix_connection(str(path))
        assert isinstance(await wire.TO_CLIENT.read(reader), wire.Hello)
        writer.write(b"\xff\xff\xff\xff")
        assert await reader.read() == b""
        writer.close()
        assert await client.prepare([ITEM])  # others are served
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert "a frame of 4294967295 bytes, at most 1073741824" in record.message


async def test_too_large_questions_and_answers_are_refused(
    backend: WaitingBackend, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with listening(backend, path) as client:
        jobs = await client.prepare([ITEM])
        monkeypatch.setattr(wire, "MAX_FRAME", 500)
        long = ForcingJob(ForcedText([9] * 1000, 0), 0, "a")
        with pytest.raises(RefusalError, match="too much for the scorer at a time: 1"):
            await client.states([long], WantedStates((0,)), Caller("request"))
        with pytest.raises(RefusalError, match=r"the scorer's answer has \d+ bytes"):
            await client.states(jobs, WantedStates((0,) * 99), Caller("request"))
