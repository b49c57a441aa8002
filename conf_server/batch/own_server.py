"""Where a run finds its server: at the URL that was given, or started for this run alone."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Final

from conf_server.batch.options import BatchOptions, StopRunError
from conf_server.concurrency import cancel_all
from conf_server.server_process import CONF_SERVER, ServerProcess, ServerProcessError

COMMAND = CONF_SERVER
"""What `--model` starts."""

LAST_WORDS_S: Final = 1.0
"""How long a broken connection waits for the end of the server to become known."""

Work = Callable[[str], Coroutine[Any, Any, None]]
"""Gets the address of a server that answers."""


async def with_server(options: BatchOptions, work: Work) -> None:
    """Do the work with the server of `--url`, or with one that is started for it and stopped.

    Raises:
        StopRunError: the server that was started for it ended before the work did.
    """
    if options.url is not None:
        await work(options.url)
        return
    handle, log = tempfile.mkstemp(prefix="conf-server-", suffix=".log")
    os.close(handle)
    command = f"conf-server {options.endpoint.command}"
    print(f"{command}: starting {options.model}; its log is {log}", file=sys.stderr)
    flags = ["--model", str(options.model), *options.server_flags]
    server = ServerProcess(flags, Path(log), command=COMMAND).start()

    async def once_healthy() -> None:
        await server.async_wait_until_healthy()
        print(f"{command}: {options.model} is ready", file=sys.stderr)
        await work(server.url)

    try:
        await while_it_lives(server, once_healthy())
    except ServerProcessError as error:
        raise StopRunError(str(error)) from error
    finally:
        await server.async_stop()


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
