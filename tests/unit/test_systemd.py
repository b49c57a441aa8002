"""The notifier's promises, with this test in the service manager's place."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from conf_server.systemd import ServiceNotifier

WATCHDOG_USEC = 150_000
BEAT_S = WATCHDOG_USEC / 1e6 / 3


class Manager:
    """The service manager's end of NOTIFY_SOCKET."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(address.replace("@", "\0", 1) if address[0] == "@" else address)
        self._socket.setblocking(False)
        self._heard: list[str] = []

    @property
    def heard(self) -> list[str]:
        """Every assignment so far, in order."""
        try:
            while True:
                self._heard += self._socket.recv(4096).decode().splitlines()
        except BlockingIOError:
            return self._heard

    @property
    def told(self) -> list[str]:
        """The same without the text for humans."""
        return [line for line in self.heard if not line.startswith("STATUS=")]

    def close(self) -> None:
        self._socket.close()


class Engine:
    def __init__(self) -> None:
        self.alive = True

    async def check_health(self) -> None:
        if not self.alive:
            raise RuntimeError("dead")


class Server:
    def __init__(self) -> None:
        self.started = True
        self.should_exit = False


class Service:
    """One server under a manager, with what it may be told to do."""

    def __init__(self, manager: Manager, **environ: str) -> None:
        self.manager = manager
        self.engine = Engine()
        self.server = Server()
        self.answer = asyncio.Event()
        self.error: Exception | None = None
        self.notifier = ServiceNotifier.from_environ({"NOTIFY_SOCKET": manager.address} | environ)

    async def answers(self) -> None:
        await self.answer.wait()
        if self.error:
            raise self.error

    async def run(self) -> None:
        await self.notifier.run(self.engine, self.server, self.answers, stop_s=41.5)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[asyncio.Task[None]]:
        task = asyncio.create_task(self.run())
        await asyncio.sleep(BEAT_S)
        yield task
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def eventually(condition: Callable[[], bool]) -> None:
    """Wait for it however slow the machine is."""
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.005)


STOPPING = ["STOPPING=1", "EXTEND_TIMEOUT_USEC=41500000"]


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ServiceNotifier, "POLL_S", 0.002)


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    path = request.param == "path"
    manager = Manager(str(tmp_path / "notify") if path else f"@conf-server-{uuid.uuid4()}")
    yield manager
    manager.close()


@pytest.fixture
def warnings() -> Iterator[list[str]]:
    """What the notifier logs; vLLM's loggers do not propagate to caplog."""
    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("vllm.conf_server.systemd")
    logger.addHandler(handler)
    yield messages
    logger.removeHandler(handler)


async def test_ready_waits_for_the_port_and_for_an_answer(manager: Manager) -> None:
    service = Service(manager)
    service.server.started = False
    service.answer.set()
    async with service.running():
        assert manager.heard == []
        service.answer.clear()
        service.server.started = True
        await eventually(lambda: bool(manager.heard))
        await asyncio.sleep(BEAT_S)
        assert manager.heard == ["STATUS=waiting for the model's first answer"]
        service.answer.set()
        await eventually(lambda: bool(manager.told))
        await asyncio.sleep(3 * BEAT_S)
        assert manager.told == ["READY=1"]
        assert manager.heard[-1] == "STATUS=serving"


async def test_beats_every_third_of_the_watchdogs_time(manager: Manager) -> None:
    service = Service(manager, WATCHDOG_USEC=str(WATCHDOG_USEC), WATCHDOG_PID="1")
    service.answer.set()
    began = time.monotonic()
    async with service.running():
        await eventually(lambda: manager.told.count("WATCHDOG=1") >= 4)
        assert manager.told[0] == "READY=1"
        assert set(manager.told[1:]) == {"WATCHDOG=1"}
        assert time.monotonic() - began >= (manager.told.count("WATCHDOG=1") - 1) * BEAT_S


async def test_no_beat_before_the_model_answers(manager: Manager) -> None:
    service = Service(manager, WATCHDOG_USEC=str(WATCHDOG_USEC))
    async with service.running():
        await asyncio.sleep(2 * BEAT_S)
        assert manager.told == []


async def test_no_beat_from_a_loop_that_hangs(manager: Manager) -> None:
    service = Service(manager, WATCHDOG_USEC=str(WATCHDOG_USEC))
    service.answer.set()
    async with service.running():
        await eventually(lambda: "WATCHDOG=1" in manager.told)
        before = manager.told.count("WATCHDOG=1")
        time.sleep(4 * BEAT_S)
        assert manager.told.count("WATCHDOG=1") == before


async def test_a_dead_engine_stops_the_beats_and_the_drain_is_still_told(
    manager: Manager, warnings: list[str]
) -> None:
    service = Service(manager, WATCHDOG_USEC=str(WATCHDOG_USEC))
    service.answer.set()
    async with service.running() as task:
        service.engine.alive = False
        await eventually(lambda: manager.heard[-1] == "STATUS=the engine is dead")
        beats = manager.told.count("WATCHDOG=1")
        service.engine.alive = True
        await asyncio.sleep(4 * BEAT_S)
        assert manager.told.count("WATCHDOG=1") == beats
        assert [text for text in warnings if "engine is dead" in text]
        service.server.should_exit = True
        await task
    assert manager.told[-2:] == STOPPING
    assert "STATUS=draining" not in manager.heard


async def test_a_drain_is_told_once_with_its_length_and_no_beat_follows(manager: Manager) -> None:
    service = Service(manager, WATCHDOG_USEC=str(WATCHDOG_USEC))
    service.answer.set()
    async with service.running() as task:
        await eventually(lambda: "WATCHDOG=1" in manager.told)
        service.server.should_exit = True
        await task
        await asyncio.sleep(3 * BEAT_S)
    assert manager.heard[-3:] == ["STATUS=draining", *STOPPING]
    assert manager.told.count("STOPPING=1") == manager.told.count("READY=1") == 1


async def test_a_drain_shorter_than_a_poll_is_told_too(manager: Manager) -> None:
    service = Service(manager)
    service.answer.set()
    async with service.running() as task:
        await eventually(lambda: bool(manager.told))
        task.cancel()
    assert manager.told == ["READY=1", *STOPPING]


async def test_a_model_that_does_not_answer_stops_the_server(
    manager: Manager, warnings: list[str]
) -> None:
    service = Service(manager, WATCHDOG_USEC=str(WATCHDOG_USEC))
    service.error = ValueError("no token")
    service.answer.set()
    with pytest.raises(ValueError, match="no token"):
        await service.run()
    assert service.server.should_exit
    assert manager.told == STOPPING
    assert "STATUS=the model does not answer (ValueError)" in manager.heard
    assert warnings == ["The model does not answer: stopping before READY."]


async def test_no_ready_from_a_server_that_is_already_stopping(manager: Manager) -> None:
    service = Service(manager)
    async with service.running() as task:
        await eventually(lambda: bool(manager.heard))
        service.server.should_exit = True
        service.answer.set()
        await task
    assert manager.told == STOPPING


async def test_a_stop_before_the_port_opens(manager: Manager) -> None:
    service = Service(manager)
    service.server.started = False
    service.server.should_exit = True
    await service.run()
    assert manager.heard == STOPPING


@pytest.mark.parametrize("environ", [{}, {"NOTIFY_SOCKET": "", "WATCHDOG_USEC": "1000"}])
async def test_without_a_manager_nothing_happens(environ: dict[str, str]) -> None:
    async def answers() -> None:
        pytest.fail("asked for an answer that nobody waits for")

    notifier = ServiceNotifier.from_environ(environ)
    await asyncio.wait_for(notifier.run(Engine(), Server(), answers, stop_s=1), 60)


async def test_a_manager_that_goes_away_is_reported_once(
    tmp_path: Path, warnings: list[str]
) -> None:
    manager = Manager(str(tmp_path / "notify"))
    service = Service(manager, WATCHDOG_USEC=str(WATCHDOG_USEC))
    service.answer.set()
    async with service.running() as task:
        await eventually(lambda: "WATCHDOG=1" in manager.told)
        manager.close()
        Path(manager.address).unlink()
        await eventually(lambda: bool(warnings))
        await asyncio.sleep(3 * BEAT_S)
        assert not task.done()
        assert len(warnings) == 1
        assert manager.address in warnings[0]
        manager = Manager(manager.address)
        await eventually(lambda: "WATCHDOG=1" in manager.told)
        manager.close()


async def test_a_manager_that_does_not_read_cannot_hold_up_the_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, warnings: list[str]
) -> None:
    monkeypatch.setattr(ServiceNotifier, "SEND_TIMEOUT_S", 0.01)
    manager = Manager(str(tmp_path / "notify"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as filler:
        filler.setblocking(False)
        filler.connect(manager.address)
        with contextlib.suppress(BlockingIOError):
            while True:
                filler.send(b"X=1")
    service = Service(manager)
    service.answer.set()
    async with service.running() as task:
        await eventually(lambda: bool(warnings))
        await asyncio.sleep(BEAT_S)
        assert not task.done()
    assert len(warnings) == 1
    manager.close()
