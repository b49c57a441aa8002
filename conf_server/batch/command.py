"""`conf-server score`, `uncertainty` and `think`, from the command line to the exit status."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from contextlib import ExitStack

from conf_server.batch.batch_client import BatchClient
from conf_server.batch.endpoint import SCORE, THINK, UNCERTAINTY, Endpoint
from conf_server.batch.file_job import FileJob
from conf_server.batch.named_methods import require_methods, require_own_methods
from conf_server.batch.options import (
    STANDARD_STREAM,
    BatchOptions,
    StopRunError,
    UsageError,
    parse_options,
)
from conf_server.batch.own_server import with_server
from conf_server.batch.run import Counts
from conf_server.signals import Signals
from conf_server.standard_output import forget
from conf_server.terminal import say


def score(arguments: Sequence[str]) -> int:
    """POST /v1/score for every line of a file, and return the exit status."""
    return run(SCORE, arguments)


def uncertainty(arguments: Sequence[str]) -> int:
    """POST /v1/uncertainty for every line of a file, and return the exit status."""
    return run(UNCERTAINTY, arguments)


def think(arguments: Sequence[str]) -> int:
    """POST /v1/think/chat/completions for every line of a file, and return the exit status."""
    return run(THINK, arguments)


def run(endpoint: Endpoint, arguments: Sequence[str]) -> int:
    """Send every line of the input that has no answer yet, and write the answers.

    Returns:
        0 where all lines are answered, 1 where one is not, 2 for bad usage, 130 and 143 after
        SIGINT and SIGTERM.
    """
    options = parse_options(endpoint, arguments)
    signals, counts = Signals(), Counts()
    status, goes_on = 0, True
    try:
        asyncio.run(_run(options, signals, counts))
    except UsageError as error:
        _say(options, f"error: {error}")
        status = 2
    except (StopRunError, OSError) as error:
        _say(options, f"error: {error}")
        status = 1
        goes_on = getattr(error, "goes_on", True)
        if isinstance(error, BrokenPipeError):
            forget(sys.stdout)
    except (asyncio.CancelledError, KeyboardInterrupt):
        if not signals.received:
            raise
    stopped = bool(status or signals.received)
    if counts.begun or not status:
        _say(options, _summary(options, counts, stopped, goes_on and counts.begun))
    if signals.received:
        return 128 + signals.received
    return status or int(counts.failed > 0)


async def _run(options: BatchOptions, signals: Signals, counts: Counts) -> None:
    with ExitStack() as stack:
        stack.enter_context(signals.handled())
        job = await FileJob.opened(options, stack)
        counts.there = job.num_answered

        async def work(url: str) -> None:
            async with BatchClient(url, options) as client:
                await require_methods(client, options)
                await job.run(client, counts, signals)

        if options.model is not None:
            require_own_methods(options)
        await with_server(options, work)


def _summary(options: BatchOptions, counts: Counts, stopped: bool, goes_on: bool) -> str:
    parts = [f"{counts.answered} answered", f"{counts.failed} failed"]
    if counts.there:
        parts.append(f"{counts.there} answered before")
    text = f"{', '.join(parts)}: {options.output}"
    if stopped and goes_on and options.output != STANDARD_STREAM:
        return f"stopped; {text}\nThe same command goes on from here."
    if counts.failed and not stopped and options.output != STANDARD_STREAM:
        return f"{text}\nThe same command tries the failed lines again."
    return f"stopped; {text}" if stopped else text


def _say(options: BatchOptions, text: str) -> None:
    say(f"conf-server {options.endpoint.command}: {text}")
