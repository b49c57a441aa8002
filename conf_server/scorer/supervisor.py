"""Starts the scorer's process, starts it again when it has died, and ends it with the server."""

from __future__ import annotations

import logging
import os
import re
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final

from conf_server.backends.transformers_options import TransformersOptions
from conf_server.scorer.wire import TO_SUPERVISOR, Hello, NotLoaded, Start, frame
from conf_server.settings import SettingsError

FIRST_DELAY_S: Final = 1.0
LONGEST_DELAY_S: Final = 60.0
"""Seconds until a process that has died is started again. They double each time, until one has
lived for the longest."""
STOP_S: Final = 5.0
"""Seconds from SIGTERM to SIGKILL."""
POLL_S: Final = 0.5
"""Seconds between two looks at a process that is loading and says nothing."""

logger = logging.getLogger("vllm.conf_server.scorer")


@dataclass(frozen=True)
class RunningScorer:
    """Where a scorer is asked, for any process of the server: `ScorerBackend(path, hello)`.

    Attributes:
        path: of its socket; a process that is started later listens there too.
        hello: what it has said of itself.
        same_model: it runs the served model.
        in_turn: it has the GPU in turn with the engine: `ScorerInTurn`.
    """

    path: str
    hello: Hello
    same_model: bool = True
    in_turn: bool = False


class Supervisor:
    """Keeps one scorer running, with a thread of its own.

    with Supervisor(options, max_queue=64) as scorer:
        ScorerBackend(scorer.path, scorer.hello)

    On Linux a process is killed when the thread that has started it ends; that is this thread, and
    it ends with this process at the latest.
    """

    def __init__(
        self, options: TransformersOptions, max_queue: int, *, same_model: bool = True
    ) -> None:
        """
        Args:
            options: how the process loads its model.
            max_queue: requests that it may have at a time.
            same_model: the model is the served one.
        """
        self._same_model = same_model
        self._options = options
        self._max_queue = max_queue
        self._folder = Path(tempfile.mkdtemp(prefix="conf-scorer-"))
        self._path = str(self._folder / "scorer")
        self._said: Future[Hello] = Future()
        self._stopping = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._starting = threading.Lock()
        self._thread = threading.Thread(target=self._keep, name="scorer-supervisor", daemon=True)

    def start(self) -> RunningScorer:
        """Start the process and wait until it has loaded its model.

        Raises:
            SettingsError: it cannot.
        """
        self._thread.start()
        try:
            hello = self._said.result()
            return RunningScorer(self._path, hello, self._same_model, self._options.parked)
        except BaseException:  # a signal to the server comes as an exception, too
            self.stop()
            raise

    def stop(self) -> None:
        """End the process, and wait for that."""
        with self._starting:
            self._stopping.set()
            process = self._process
        if process is not None:
            process.terminate()
            self._thread.join(STOP_S)
            if self._thread.is_alive():
                process.kill()
        self._thread.join()
        shutil.rmtree(self._folder)

    def __enter__(self) -> RunningScorer:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    # In the thread.

    def _keep(self) -> None:
        """Run one process after the other, until somebody says stop or the first cannot load."""
        delay = FIRST_DELAY_S
        while True:
            began = time.monotonic()
            ended = self._run()
            if self._stopping.is_set():
                return
            if not self._said.done():
                self._said.set_exception(SettingsError(f"--scorer: {ended}"))
                return
            if time.monotonic() - began >= LONGEST_DELAY_S:
                delay = FIRST_DELAY_S
            logger.error("The scorer is started again in %.0f s: %s", delay, ended)
            if self._stopping.wait(delay):
                return
            delay = min(2 * delay, LONGEST_DELAY_S)

    def _run(self) -> str:
        """Run one process to its end, and say in one line how it ended."""
        try:
            ours, theirs = socket.socketpair()
            with ours:
                with theirs, self._starting:
                    if self._stopping.is_set():
                        return "it is not wanted any more"
                    process = self._process = self._started(theirs)
                hello = self._load(ours, process)
                status = process.wait()
        except OSError as error:
            return f"the process cannot be started: {error}"
        if isinstance(hello, NotLoaded):
            return _in_one_line(hello.reason)
        if hello is None:
            return (
                f"the process ended with status {status} while it loaded {self._options.model}, "
                "and has said why on standard error"
            )
        return f"the process ended with status {status}"

    def _load(
        self, sock: socket.socket, process: subprocess.Popen[bytes]
    ) -> Hello | NotLoaded | None:
        """What a process says when it has loaded its model or not; None where it has ended."""
        try:
            sock.sendall(frame(Start(self._options, self._path, self._max_queue)))
            hello = _heard(sock, process)
        except ConnectionError:
            return None
        if isinstance(hello, Hello):
            logger.info("The scorer has loaded %s.", hello.model)
            if not self._said.done():
                self._said.set_result(hello)
        return hello

    def _started(self, theirs: socket.socket) -> subprocess.Popen[bytes]:
        file = theirs.fileno()
        command = [sys.executable, "-m", "conf_server.scorer", str(file), str(os.getpid())]
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=(file,))


def _heard(sock: socket.socket, process: subprocess.Popen[bytes]) -> Hello | NotLoaded | None:
    """The first message of a process; None where it has ended.

    The end of the connection may come late: another child of this process, made at the same
    moment, may hold it open.
    """
    while not select.select([sock], [], [], POLL_S)[0]:
        if process.poll() is not None:
            return None
    said: Hello | NotLoaded | None = TO_SUPERVISOR.receive(sock)
    return said


def _in_one_line(reason: str) -> str:
    """Why a model cannot be loaded, with the flags of the server that has a scorer."""
    line = " ".join(reason.split()).removeprefix("--model: ")
    return re.sub(r"--(?=device|dtype|quantization)", "--scorer-", line)
