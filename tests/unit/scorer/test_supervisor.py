"""The process with a real model: its numbers, its deaths, and its end."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil  # type: ignore[import-untyped]
import pytest

from conf_server.backends.base import (
    Caller,
    Chat,
    Completion,
    ForcingItem,
    ForcingJob,
    LabelQuestion,
    Plain,
)
from conf_server.backends.transformers import TransformersBackend
from conf_server.backends.transformers_options import TransformersOptions
from conf_server.refusal import RefusalError
from conf_server.scorer.scorer_backend import ScorerBackend
from conf_server.scorer.supervisor import RunningScorer, Supervisor
from conf_server.scorer.wire import TO_SUPERVISOR, Hello, Start, frame
from conf_server.settings import SettingsError
from conf_server.stats.forced import ForcedText, WantedAttention, WantedRows, WantedStates
from tests.processes import DEADLINE_S, is_running, runs_scorer, until

CALLER = Caller("request")
ROWS = WantedRows(1, 0, statistics=True)
JOBS = [ForcingJob(ForcedText([0, 1, 2], 1), 0, "a")]
ITEMS = [
    ForcingItem(
        Chat(({"role": "user", "content": "What is the capital of France?"},)),
        (Completion("Paris", finished=True), Completion("Lyon")),
        "",
        ("answer", "samples.0"),
    ),
    ForcingItem(Plain("One, two,"), (Completion(" three, four"),), "", ("text",)),
]


@pytest.fixture(scope="module")
def options(model_path: Path) -> TransformersOptions:
    return TransformersOptions(str(model_path), dtype="float32", device="cpu", max_len=512)


@pytest.fixture(scope="module")
def scorer(options: TransformersOptions) -> Iterator[RunningScorer]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        with Supervisor(options, max_queue=8) as running:
            yield running


@pytest.fixture(scope="module")
def twin(options: TransformersOptions) -> Iterator[TransformersBackend]:
    """The same in this process."""
    backend = TransformersBackend.load(options)
    yield backend
    backend.close()


def client_of(scorer: RunningScorer) -> ScorerBackend:
    return ScorerBackend(scorer.path, scorer.hello)


def scorers(parent: int) -> list[int]:
    """Process ids of the scorers of a process."""
    children = psutil.Process(parent).children()
    return [child.pid for child in children if runs_scorer(child)]


async def test_it_says_what_a_backend_in_this_process_says(
    scorer: RunningScorer, twin: TransformersBackend
) -> None:
    client = client_of(scorer)
    assert client.limits() == twin.limits()
    jobs = await client.prepare(ITEMS)
    assert jobs == await twin.prepare(ITEMS)
    assert len(jobs) == 3
    wanted = WantedRows(5, 2, statistics=True, ranks=True)
    for own, theirs in zip(
        await twin.force(jobs, wanted, CALLER),
        await client.force(jobs, wanted, CALLER),
        strict=True,
    ):
        np.testing.assert_array_equal(theirs.rows.named_ids, own.rows.named_ids)
        np.testing.assert_array_equal(theirs.rows.ranks, own.rows.ranks)
        np.testing.assert_allclose(theirs.rows.named_logprobs, own.rows.named_logprobs, atol=1e-4)
        assert own.rows.statistics is not None
        assert theirs.rows.statistics is not None
        np.testing.assert_allclose(theirs.rows.statistics, own.rows.statistics, atol=1e-3)
    await client.close()


async def test_hidden_states_and_attention_are_the_same(
    scorer: RunningScorer, twin: TransformersBackend
) -> None:
    client = client_of(scorer)
    jobs = await client.prepare(ITEMS)
    attention = WantedAttention((3, 15), history=2, context_mass=True, last_on=(0, 3))
    wanted = WantedStates((0, 15, 30), "none", attention=attention)
    for own, theirs in zip(
        await twin.states(jobs, wanted, CALLER),
        await client.states(jobs, wanted, CALLER),
        strict=True,
    ):
        scale = np.abs(own.states).max()
        np.testing.assert_allclose(theirs.states / scale, own.states / scale, atol=1e-5)
        assert own.attention is not None
        assert theirs.attention is not None
        for name in ("weights", "context_mass", "last"):
            np.testing.assert_allclose(
                getattr(theirs.attention, name), getattr(own.attention, name), atol=1e-5
            )
    await client.close()


async def test_two_clients_ask_at_once(scorer: RunningScorer, twin: TransformersBackend) -> None:
    def question() -> LabelQuestion:
        return LabelQuestion(Plain("The capital of France is"), (" Paris", " Rome"))

    (own,) = await twin.labels([question], CALLER)
    clients = [client_of(scorer), client_of(scorer)]
    found = await asyncio.gather(*(client.labels([question] * 5, CALLER) for client in clients))
    for labels in (labels for answers in found for labels in answers):
        np.testing.assert_allclose(labels.logprobs, own.logprobs, atol=1e-4)
    for client in clients:
        await client.close()


async def test_nobody_reads_on_for_a_cancelled_caller(scorer: RunningScorer) -> None:
    client = client_of(scorer)
    long = ForcingItem(Plain((5,) * 500), (Completion((6,)),), "", ("long",))
    jobs = await client.prepare([long] * 500)  # minutes of work
    every = WantedStates(tuple(range(31)), "mean")
    work = asyncio.create_task(client.states(jobs, every, Caller("long")))
    await asyncio.sleep(0.1)
    work.cancel()
    async with asyncio.timeout(DEADLINE_S):
        assert await client.force(jobs[:1], WantedRows(1, 0, statistics=True), Caller("short"))
    await client.close()


async def test_a_text_that_cannot_be_read_is_refused_by_its_field(scorer: RunningScorer) -> None:
    client = client_of(scorer)
    with pytest.raises(RefusalError) as refused:
        await client.prepare([ForcingItem(Plain("a"), (Completion(""),), "", ("items.1",))])
    assert (refused.value.field, refused.value.status) == ("items.1", 400)
    await client.close()


async def test_killed_it_is_started_again(
    scorer: RunningScorer, caplog: pytest.LogCaptureFixture
) -> None:
    client = client_of(scorer)
    jobs: list[ForcingJob] = await client.prepare(ITEMS)
    (pid,) = scorers(os.getpid())
    os.kill(pid, signal.SIGINT)  # of a terminal: the server decides
    assert await client.states(jobs, WantedStates((1,)), CALLER)
    waiting = asyncio.create_task(client.states(jobs * 200, WantedStates((1,)), CALLER))
    await asyncio.sleep(0.1)
    os.kill(pid, signal.SIGKILL)
    for asked in (waiting, client.states(jobs, WantedStates((1,)), CALLER)):
        with pytest.raises(RefusalError) as refused:
            await asked
        assert refused.value.status == 503
    async with asyncio.timeout(DEADLINE_S):
        while True:
            try:
                assert await client.states(jobs, WantedStates((1,)), CALLER)
                break
            except RefusalError:
                await asyncio.sleep(0.1)
    assert scorers(os.getpid()) != [pid]
    (record,) = (record for record in caplog.records if record.levelname == "ERROR")
    assert "started again in 1 s: the process ended with status -9" in record.message
    await client.close()


@pytest.mark.skipif(sys.platform != "linux", reason="needs a limit of the address space")
async def test_what_its_memory_does_not_hold_is_refused_and_the_next_is_not(
    options: TransformersOptions,
) -> None:
    others = scorers(os.getpid())
    with Supervisor(replace(options, max_len=8192), max_queue=8) as running:
        (pid,) = set(scorers(os.getpid())) - set(others)
        client = client_of(running)
        # Its passes have made their threads and buffers, and what is new is the long text's.
        await client.force(JOBS, ROWS, CALLER)
        process = psutil.Process(pid)
        limit = process.memory_info().vms + 300 * 2**20
        process.rlimit(psutil.RLIMIT_AS, (limit, limit))
        long = [ForcingJob(ForcedText([1000] * 8000, 7990), 0, "long")]
        with pytest.raises(RefusalError, match="no memory") as refused:
            await client.force(long, ROWS, CALLER)
        assert refused.value.status == 503
        (forced,) = await client.force(JOBS, ROWS, CALLER)
        assert len(forced.rows) == 2
        assert set(scorers(os.getpid())) == {pid, *others}
        await client.close()


def test_a_model_that_is_not_there_ends_the_start_in_one_line(
    options: TransformersOptions, tmp_path: Path
) -> None:
    supervisor = Supervisor(replace(options, model=str(tmp_path)), max_queue=8)
    with pytest.raises(SettingsError, match=rf"^--scorer: [^\n]*{re.escape(str(tmp_path))}[^\n]*$"):
        supervisor.start()


PARENT = """
import sys
from conf_server.backends.transformers_options import TransformersOptions
from conf_server.scorer.supervisor import Supervisor
scorer = Supervisor(TransformersOptions(sys.argv[1], device="cpu"), max_queue=8).start()
print(scorer.path, flush=True)
sys.stdin.read()
"""


def test_it_does_not_outlive_a_server_that_was_killed(model_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, str(model_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as parent:
        assert parent.stdout is not None
        socket_path = Path(parent.stdout.readline().decode().strip())
        (pid,) = scorers(parent.pid)
        parent.kill()
    until(lambda: not is_running(pid))
    shutil.rmtree(socket_path.parent)  # of what was killed nobody else is left to do it


def started(
    options: TransformersOptions, folder: Path
) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """A process whose supervisor is this test."""
    ours, theirs = socket.socketpair()
    command = [sys.executable, "-m", "conf_server.scorer", str(theirs.fileno()), str(os.getpid())]
    with theirs:
        process = subprocess.Popen(command, pass_fds=(theirs.fileno(),))
    ours.sendall(frame(Start(options, str(folder / "scorer"), 8)))
    return process, ours


def test_it_ends_with_the_connection_to_its_supervisor(
    options: TransformersOptions, tmp_path: Path
) -> None:
    """That holds where a parent's end kills nobody, on systems that are not Linux."""
    process, ours = started(options, tmp_path)
    with ours:
        assert isinstance(TO_SUPERVISOR.receive(ours), Hello)
    assert process.wait(DEADLINE_S) == 1


def test_sigterm_ends_it_while_it_loads(options: TransformersOptions, tmp_path: Path) -> None:
    process, ours = started(options, tmp_path)
    with ours:
        process.terminate()
        assert process.wait(DEADLINE_S) == -signal.SIGTERM
