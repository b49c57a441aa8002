"""systemd's notify protocol (sd_notify(3)): ready when the model answers, then a heartbeat."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping
from typing import Protocol

from vllm.logger import init_logger

logger = init_logger("vllm.conf_server.systemd")


class Engine(Protocol):
    """What the notifier asks of an engine client."""

    async def check_health(self) -> None: ...


class Server(Protocol):
    """What the notifier asks of a uvicorn server."""

    started: bool
    should_exit: bool


class ServiceNotifier:
    """Tells the service manager how the server is; silent where there is none."""

    POLL_S = 0.2

    def __init__(self, address: str | None, watchdog_s: float | None) -> None:
        self._address = address
        self._watchdog_s = watchdog_s

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> ServiceNotifier:
        """From NOTIFY_SOCKET and WATCHDOG_USEC."""
        watchdog = environ.get("WATCHDOG_USEC")
        return cls(environ.get("NOTIFY_SOCKET") or None, int(watchdog) / 1e6 if watchdog else None)

    def send(self, message: str) -> None:
        """Send one datagram."""
        if self._address is None:
            return
        # A leading @ names an abstract socket.
        address = self._address.replace("@", "\0", 1) if self._address[0] == "@" else self._address
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.connect(address)
            sock.sendall(message.encode())

    async def run(self, engine: Engine, server: Server) -> None:
        """READY once the engine answers and the port is served; then WATCHDOG while both live.

        A hung event loop or a dead engine stops the heartbeat, and systemd restarts the
        service. STOPPING is sent when the drain begins.
        """
        if self._address is None:
            return
        while not server.started:
            await asyncio.sleep(self.POLL_S)
        await engine.check_health()
        self.send("READY=1\nSTATUS=serving")
        interval = self.POLL_S if self._watchdog_s is None else min(self._watchdog_s / 3, 10)
        while not server.should_exit:
            if self._watchdog_s is not None:
                await engine.check_health()
                self.send("WATCHDOG=1")
            await self._sleep_until_exit(server, interval)
        self.send("STOPPING=1\nSTATUS=draining")

    async def _sleep_until_exit(self, server: Server, seconds: float) -> None:
        deadline = asyncio.get_running_loop().time() + seconds
        while not server.should_exit and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(self.POLL_S)
