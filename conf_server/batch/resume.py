"""Going on: what an earlier run has answered must be what would be answered now."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable

from conf_server.batch.endpoint import LineError
from conf_server.batch.options import BatchOptions, UsageError
from conf_server.batch.output import Found
from conf_server.batch.records import parse_record

NumberedLine = tuple[int, bytes]
"""A line of the input and its number, counted from 1."""


async def unanswered(
    lines: AsyncIterator[NumberedLine], found: Found, options: BatchOptions
) -> list[NumberedLine]:
    """Compare every answer with its line, and return the lines in between that have none.

    Reads `lines` up to the last line that is answered.

    Raises:
        UsageError: a line that is answered is another one now, or is gone.
        StopRunError, OSError: the input cannot be read.
    """
    left: list[NumberedLine] = []
    if not found.last:
        return left
    async for number, text in lines:
        if request := found.request(number):
            _require_same(number, text, request, options)
        else:
            left.append((number, text))
        if number == found.last:
            return left
    raise UsageError(
        f"{options.input}: ends before line {found.last}, which is answered in "
        f"{options.output}; --overwrite starts anew"
    )


async def chained(
    left: Iterable[NumberedLine], lines: AsyncIterator[NumberedLine]
) -> AsyncIterator[NumberedLine]:
    """The lines that were left unanswered, and then the rest of the input."""
    for line in left:
        yield line
    async for line in lines:
        yield line


def _require_same(number: int, text: bytes, request: int, options: BatchOptions) -> None:
    changed = UsageError(
        f"line {number}, the command or its flags have changed since {options.output} was "
        "written; --overwrite starts anew"
    )
    try:
        record = parse_record(options.endpoint, number, text, options.defaults)
    except LineError as error:
        raise changed from error
    if record.request != request:
        raise changed


def require_server(found: Found, server: str, options: BatchOptions) -> None:
    """Refuse to mix answers of two servers in one output.

    Raises:
        UsageError: the answers that are there are another server's.
    """
    if found.server not in (None, server):
        raise UsageError(
            f"{options.output}: its answers are of {found.server}, not of {server}; "
            "--overwrite starts anew"
        )
