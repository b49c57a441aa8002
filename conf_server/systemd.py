"""systemd's notify protocol (sd_notify(3)): ready when the model answers, then a heartbeat.

One `ServiceNotifier` speaks for the whole service, from the only API process or from the
first of several: it alone can tell that requests are answered. The unit therefore says
NotifyAccess=all.
"""

from __future__ import annotations

import asyncio
import logging
import math
import socket
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

logger = logging.getLogger("vllm.conf_server.systemd")


class Engine(Protocol):
    """What the notifier asks of an engine client."""

    async def check_health(self) -> None: ...


class Server(Protocol):
    """What the notifier asks of a uvicorn server."""

    started: bool
    should_exit: bool


class ServiceNotifier:
    """Tells the service manager how the server is; does nothing where there is none."""

    POLL_S = 0.1
    SEND_TIMEOUT_S = 1.0

    def __init__(self, address: str | None, watchdog_s: float | None) -> None:
        self._address = address
        self._watchdog_s = watchdog_s
        self._unheard = False

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> ServiceNotifier:
        """From NOTIFY_SOCKET and WATCHDOG_USEC.

        WATCHDOG_PID is not looked at: it names the process that systemd started, and with
        several API processes that one only waits for its children. It would go on feeding
        the watchdog of a server that answers nobody.
        """
        watchdog_usec = int(environ.get("WATCHDOG_USEC") or 0)
        return cls(environ.get("NOTIFY_SOCKET") or None, watchdog_usec / 1e6 or None)

    async def run(
        self,
        engine: Engine,
        server: Server,
        answers: Callable[[], Awaitable[None]],
        *,
        stop_s: float,
    ) -> None:
        """READY once the model answers, WATCHDOG while the engine is well, STOPPING at the end.

        Args:
            answers: returns when the model has answered, raises when it cannot.
            stop_s: how long a stop may take, from `server.should_exit` to the process's end.

        Raises:
            Exception: what `answers` raised, for the launcher to exit with a failure.
        """
        if self._address is None:
            return
        try:
            await self._wait(lambda: server.started or server.should_exit)
            if not server.should_exit:
                await self._first_answer(server, answers)
                await self._beat(engine, server)
        finally:
            # When a stop begins systemd drops the watchdog, but takes it up again with the next
            # WATCHDOG=1: none may follow this. One may have been on its way, and TimeoutStopSec=
            # may be shorter than the drain: EXTEND_TIMEOUT_USEC moves both deadlines.
            self._tell("STOPPING=1", f"EXTEND_TIMEOUT_USEC={int(stop_s * 1e6)}")

    async def _first_answer(self, server: Server, answers: Callable[[], Awaitable[None]]) -> None:
        """READY, or the end of a server whose model does not answer.

        Whoever is on call wants a failed start with its reason in the journal, and systemd's
        restarts, not a start that hangs until TimeoutStartSec=. No timeout of our own: a
        first answer may compile for minutes.
        """
        self._tell("STATUS=waiting for the model's first answer")
        try:
            await answers()
        except Exception as error:
            logger.exception("The model does not answer: stopping before READY.")
            self._tell(f"STATUS=the model does not answer ({type(error).__name__})")
            server.should_exit = True
            raise
        if not server.should_exit:
            self._tell("READY=1", "STATUS=serving")

    async def _beat(self, engine: Engine, server: Server) -> None:
        """WATCHDOG until the drain, and none after the engine's death.

        Sent from the event loop that serves the requests: one that hangs stops the
        heartbeat too, and systemd restarts the service.
        """
        while self._watchdog_s is not None and not server.should_exit:
            try:
                await engine.check_health()
            except Exception as error:
                logger.error("No more heartbeats for systemd: the engine is dead (%r).", error)
                self._tell("STATUS=the engine is dead")
                await self._wait(lambda: server.should_exit)
                return
            self._tell("WATCHDOG=1")
            await self._wait(lambda: server.should_exit, self._watchdog_s / 3)
        await self._wait(lambda: server.should_exit)
        self._tell("STATUS=draining")

    def _tell(self, *assignments: str) -> None:
        """Send one datagram; a service manager that does not listen is not our failure."""
        assert self._address is not None
        # A leading @ names an abstract socket.
        address = "\0" + self._address[1:] if self._address[0] == "@" else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.settimeout(self.SEND_TIMEOUT_S)
                sock.connect(address)
                sock.send("\n".join(assignments).encode())
            self._unheard = False
        except OSError as error:
            if not self._unheard:
                logger.warning("Nobody listens on NOTIFY_SOCKET %s: %s", self._address, error)
            self._unheard = True

    async def _wait(self, condition: Callable[[], bool], seconds: float = math.inf) -> None:
        now = asyncio.get_running_loop().time
        deadline = now() + seconds
        while not condition() and now() < deadline:
            await asyncio.sleep(self.POLL_S)
