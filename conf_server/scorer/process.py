"""The scorer's process: loads a model with transformers, says so, and answers until it is ended.

It is started with a socket to its supervisor, over which it learns what to do and says how that
went. While the supervisor lives the socket stays open, and nothing more is said on it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import threading
from collections.abc import Sequence

from conf_server.scorer.wire import FROM_SUPERVISOR, Hello, NotLoaded, Start, frame
from conf_server.server_process import end_with
from conf_server.settings import SettingsError


def main(arguments: Sequence[str]) -> int:
    """Serve until a signal comes or the supervisor ends.

    Args:
        arguments: the number of the socket's file, and the supervisor's process id.

    Returns:
        The exit status, where the model cannot be loaded.
    """
    supervisor = socket.socket(fileno=int(arguments[0]))
    _follow_signals()
    end_with(int(arguments[1]))
    logging.basicConfig(format=f"(Scorer pid={os.getpid()}) %(levelname)s %(message)s")
    start = FROM_SUPERVISOR.receive(supervisor)
    if start is None:
        return 1
    threading.Thread(target=_end_at_the_end_of, args=(supervisor,), daemon=True).start()
    try:
        asyncio.run(_serve(start, supervisor))
    except SettingsError as error:
        supervisor.sendall(frame(NotLoaded(str(error))))
        return 2
    return 0


def _follow_signals() -> None:
    """SIGTERM ends the process at once, in the middle of a pass too: nothing of it is to be saved.

    A terminal sends SIGINT to all its processes; the supervisor's is the one that decides.
    """
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _end_at_the_end_of(sock: socket.socket) -> None:
    """End the process when the other side has closed the socket. This holds on any system."""
    sock.recv(1)
    os._exit(1)


async def _serve(start: Start, supervisor: socket.socket) -> None:
    # torch is imported here, with the supervisor already watched.
    from conf_server.backends.transformers import TransformersBackend
    from conf_server.scorer.connections import Connections

    backend = TransformersBackend.load(start.options)
    hello = Hello(backend.limits(), start.options.model)
    connections = Connections(backend, hello, start.max_queue, backend.move)
    server = await connections.listen(start.path)
    supervisor.sendall(frame(hello))
    await server.serve_forever()
