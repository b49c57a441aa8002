"""Going on: what an earlier run has answered must be what would be answered now."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from conf_server.batch.options import BatchOptions, UsageError
from conf_server.batch.output import Found
from conf_server.batch.records import LineError, kept_digest, parse_record

Lines = AsyncIterator[tuple[int, bytes]]
"""Numbers and lines of an input."""


@dataclass
class Resumption:
    """What the lines up to the last answered one leave to do.

    Attributes:
        unanswered: those that have no answer.
        kept: by line, what its answer is to repeat of it, where that is no longer the same.
    """

    unanswered: list[tuple[int, bytes]] = field(default_factory=list)
    kept: dict[int, dict[str, Any]] = field(default_factory=dict)

    async def followed_by(self, lines: Lines) -> Lines:
        """The unanswered ones, and the rest of the input."""
        for line in self.unanswered:
            yield line
        async for line in lines:
            yield line


async def compare(lines: Lines, found: Found, options: BatchOptions) -> Resumption:
    """Reads up to the last line that is answered; `lines` goes on after it.

    Raises:
        UsageError: a line that is answered is another one now, is gone, or lacks a field that
            its answer repeats.
        StopRunError, OSError: the input cannot be read.
    """
    resumption = Resumption()
    if not found.last:
        return resumption
    async for number, text in lines:
        if request := found.request(number):
            kept = _kept(number, text, request, options)
            if kept_digest(kept) != found.kept[number]:
                _require_fields(number, kept, found, options)
                resumption.kept[number] = kept
        else:
            resumption.unanswered.append((number, text))
        if number == found.last:
            return resumption
    raise UsageError(
        f"{options.input}: ends before line {found.last}, which is answered in "
        f"{options.output}; --overwrite starts anew"
    )


def _kept(number: int, text: bytes, request: int, options: BatchOptions) -> dict[str, Any]:
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
    return record.kept


def _require_fields(
    number: int, kept: Mapping[str, Any], found: Found, options: BatchOptions
) -> None:
    if lost := found.lost(number, kept):
        raise UsageError(
            f"{options.output}: the answer to line {number} has {', '.join(lost)}, the input's "
            "line has not; null says that it is not known"
        )


def require_server(found: Found, server: str, options: BatchOptions) -> None:
    """
    Raises:
        UsageError: the answers that are there are another one's.
    """
    if found.server not in (None, server):
        raise UsageError(
            f"{options.output}: its answers are of {found.server}, not of {server}; "
            "--overwrite starts anew"
        )
