"""Reads the lines of an input: a file, a .gz file or a pipe."""

from __future__ import annotations

import asyncio
import gzip
import os
import stat
import zlib
from collections.abc import AsyncIterator
from typing import IO, Final, cast

from conf_server.batch.options import STANDARD_STREAM, StopRunError, UsageError

CHUNK: Final = 1 << 16


class LineSplitter:
    """Turns chunks of bytes into lines without their ends."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def feed(self, chunk: bytes) -> list[bytes]:
        """Take a chunk, and return the lines that end in it."""
        *lines, rest = chunk.split(b"\n")
        if lines:
            lines[0] = b"".join((*self._parts, lines[0]))
            self._parts = []
        self._parts.append(rest)
        return lines

    @property
    def rest(self) -> bytes:
        """The bytes after the last end of a line."""
        return b"".join(self._parts)


def open_input(path: str) -> IO[bytes]:
    """Open an input for reading.

    Raises:
        UsageError: it cannot be opened.
    """
    if path == STANDARD_STREAM:
        return open(0, "rb", closefd=False)
    try:
        return cast(IO[bytes], gzip.open(path)) if path.endswith(".gz") else open(path, "rb")
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}") from error


def count_lines(path: str) -> int | None:
    """How many lines an input has; None for a pipe, which reading would use up.

    None too where reading fails. It will fail again in the run, which then says so.
    """
    if path == STANDARD_STREAM or not os.path.isfile(path):
        return None
    try:
        with open_input(path) as file:
            return sum(1 for _ in file)
    except (OSError, EOFError, zlib.error):
        return None


async def input_lines(file: IO[bytes], path: str) -> AsyncIterator[tuple[int, bytes]]:
    """The lines, of any length, with their numbers counted from 1. The event loop is not blocked.

    Raises:
        StopRunError: the input is damaged, or ends in the middle of a gzip member.
        OSError: the input cannot be read.
    """
    mode = os.fstat(file.fileno()).st_mode
    is_pipe = stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)
    number = 0
    try:
        async for line in _pipe_lines(file) if is_pipe else _file_lines(file):
            number += 1
            yield number, line
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise StopRunError(f"{path}: after line {number}: {error}", goes_on=False) from error


async def _file_lines(file: IO[bytes]) -> AsyncIterator[bytes]:
    for line in file:
        # Lines that need no answer are many, and signals have to come through.
        await asyncio.sleep(0)
        yield line


async def _pipe_lines(file: IO[bytes]) -> AsyncIterator[bytes]:
    reader = asyncio.StreamReader(limit=CHUNK)
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), file
    )
    splitter = LineSplitter()
    try:
        while chunk := await reader.read(CHUNK):
            for line in splitter.feed(chunk):
                yield line
        if splitter.rest:
            yield splitter.rest
    finally:
        transport.close()
