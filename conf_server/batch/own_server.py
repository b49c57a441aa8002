"""Where a run finds its server: at the URL that was given, or started for this run alone."""

from __future__ import annotations

import asyncio
import os
import re
import tempfile
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Final

from conf_server.batch.options import BatchOptions, StopRunError, UsageError
from conf_server.concurrency import cancel_all
from conf_server.early_refusal import refuse_early
from conf_server.server_process import CONF_SERVER, ServerProcess, ServerProcessError
from conf_server.settings import SettingsError
from conf_server.terminal import say, shortened

COMMAND = CONF_SERVER
"""What `--model` starts."""

BAD_USAGE: Final = 2
"""The exit status of a server that has been told something wrong."""

SAID: Final = "conf-server: error: "
EXCEPTION: Final = re.compile(r"(?:^|\s)((?:\w+\.)*\w+(?:Error|Exception): \S.*)$")
ELSEWHERE: Final = "See root cause above"
"""What vLLM says where another process has failed, and has said why."""

LONGEST_REASON: Final = 500
"""Characters of what a server's log says."""

LAST_WORDS_S: Final = 1.0
"""How long a broken connection waits for the end of the server to become known."""

Work = Callable[[str], Coroutine[Any, Any, None]]
"""Gets the address of a server that answers."""


async def with_server(options: BatchOptions, work: Work) -> None:
    """Do the work with the server of `--url`, or with one that is started for it and stopped.

    Raises:
        UsageError: the model or a flag of the server that was to be started for it is wrong.
        StopRunError: that server did not start, or ended before the work did.
    """
    if options.url is not None:
        await work(options.url)
        return
    flags = ["--model", str(options.model), *options.server_flags]
    _refuse_early(flags)
    handle, log = tempfile.mkstemp(prefix="conf-server-", suffix=".log")
    os.close(handle)
    command = f"conf-server {options.endpoint.command}"
    say(f"{command}: starting {options.model}; its log is {log}")
    server = ServerProcess(flags, Path(log), command=COMMAND).start()
    has_started = False

    async def once_healthy() -> None:
        nonlocal has_started
        await server.async_wait_until_healthy()
        has_started = True
        say(f"{command}: {options.model} is ready")
        await work(server.url)

    try:
        await while_it_lives(server, once_healthy())
    except ServerProcessError as error:
        raise _ended(server, has_started) from error
    finally:
        await server.async_stop()


def _refuse_early(flags: list[str]) -> None:
    if any(word.partition("=")[0] == "--config" for word in flags):
        return  # What the file says is read by the server itself.
    try:
        refuse_early(flags, os.environ, listens=False)
    except SettingsError as error:
        raise UsageError(str(error)) from error


def _ended(server: ServerProcess, has_started: bool) -> UsageError | StopRunError:
    """The error that says in one line why the server ended, and where its log is."""
    status = server.process.returncode
    reason = last_reason(server.log.read_text(errors="replace"))
    how = "ended" if has_started else "did not start: it ended"
    message = f"the server {how} with status {status}: {reason} (its log is {server.log})"
    if status == BAD_USAGE and not has_started:
        return UsageError(message)
    return StopRunError(message)


def last_reason(log: str) -> str:
    """The line of a server's log that says best why it ended.

    That is what conf-server said last, or else the last exception that is no mere consequence of
    one in another process, or else the last line.
    """
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    for line in reversed(lines):
        if SAID in line:
            return shortened(line.partition(SAID)[2], LONGEST_REASON)
    errors = [found[1] for line in lines if (found := EXCEPTION.search(line))]
    causes = [error for error in errors if ELSEWHERE not in error]
    best = next(reversed(causes or errors or lines), "it said nothing")
    return shortened(best, LONGEST_REASON)


async def while_it_lives(server: ServerProcess, work: Coroutine[Any, Any, None]) -> None:
    """Do the work, or cancel it as soon as the server has ended.

    Raises:
        ServerProcessError: the server has ended.
    """
    task, ended = asyncio.create_task(work), asyncio.create_task(server.async_wait())
    try:
        await asyncio.wait({task, ended}, return_when=asyncio.FIRST_COMPLETED)
        in_vain = not task.done() or isinstance(task.exception(), StopRunError)
        if in_vain:
            # A connection may break before the end of the process is known.
            await asyncio.wait({ended}, timeout=LAST_WORDS_S)
        if in_vain and ended.done():
            raise server.ended()
        await task
    finally:
        await cancel_all((task, ended))
