"""Lines in and out: files, .gz files, pipes; and an output that a killed run has left."""

from __future__ import annotations

import asyncio
import fcntl
import gzip
import json
import os
import shutil
import stat
import sys
import tempfile
import zlib
from array import array
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import IO, Any, Final, cast

from conf_server.batch.options import STANDARD_STREAM, UsageError

CHUNK: Final = 1 << 16


class LineSplitter:
    """Chunks of bytes to lines without their ends."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def feed(self, chunk: bytes) -> list[bytes]:
        """The lines that end in this chunk."""
        *lines, rest = chunk.split(b"\n")
        if lines:
            lines[0] = b"".join((*self._parts, lines[0]))
            self._parts = []
        self._parts.append(rest)
        return lines

    @property
    def rest(self) -> bytes:
        """What came after the last end of a line."""
        return b"".join(self._parts)


# Input


def open_input(path: str) -> IO[bytes]:
    """
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
    """None where reading would use the input up, or fails: it will fail again, and be told."""
    if path == STANDARD_STREAM or not os.path.isfile(path):
        return None
    try:
        with open_input(path) as file:
            return sum(1 for _ in file)
    except (OSError, EOFError, zlib.error):
        return None


async def input_lines(file: IO[bytes]) -> AsyncIterator[bytes]:
    """Lines of any length, waiting for a pipe without stopping the event loop.

    Raises:
        OSError, EOFError, zlib.error: it cannot be read to its end.
    """
    mode = os.fstat(file.fileno()).st_mode
    if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode):
        async for line in _pipe_lines(file):
            yield line
        return
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


# Output


@dataclass
class Found:
    """What an output holds before the run.

    Attributes:
        digests: by line of the input, the digest of the request that is answered; 0 for none.
        count: how many are.
        dropped: places of the lines that hold no answer, or a second one.
        torn: whether its end is that of a killed run.
    """

    digests: array[int] = field(default_factory=lambda: array("Q", [0]))
    count: int = 0
    dropped: set[int] = field(default_factory=set)
    torn: bool = False

    def digest(self, line: int) -> int:
        return self.digests[line] if line < len(self.digests) else 0

    def add(self, line: int, digest: int) -> None:
        if line >= len(self.digests):
            self.digests.extend([0] * (line + 1 - len(self.digests)))
        self.digests[line] = digest
        self.count += 1


class Output:
    """Writes lines that reach the system one by one."""

    def __init__(self, stream: IO[bytes], found: Found) -> None:
        self._stream = stream
        self.found = found

    def write(self, line: dict[str, Any]) -> None:
        """
        Raises:
            OSError: the disk is full, or nobody reads the pipe.
        """
        self._stream.write(json.dumps(line).encode() + b"\n")
        self._stream.flush()


@contextmanager
def open_output(path: str, overwrite: bool) -> Iterator[Output]:
    """Append to what is there, less the lines that failed and a torn end.

    Raises:
        UsageError: it cannot be opened, another run writes to it, or it holds something else.
    """
    if path == STANDARD_STREAM:
        yield Output(sys.stdout.buffer, Found())
        return
    with ExitStack() as stack:
        try:
            file = stack.enter_context(open(path, "ab"))
            output = _continued(stack, file, path, overwrite)
        except OSError as error:
            raise UsageError(f"{path}: {error.strerror or error}") from error
        yield output


def _continued(stack: ExitStack, file: IO[bytes], path: str, overwrite: bool) -> Output:
    _lock(file, path)
    found = Found()
    if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        if overwrite:
            file.truncate(0)
        found = scan(path)
        if found.torn or found.dropped:
            file = stack.enter_context(rewritten(path, found))
    return Output(stack.enter_context(_writer(file, path)), found)


@contextmanager
def _writer(file: IO[bytes], path: str) -> Iterator[IO[bytes]]:
    """Of a gzip member, one for each run, where the name asks for it."""
    if path.endswith(".gz"):
        with gzip.GzipFile("", "wb", fileobj=file) as member:
            yield cast(IO[bytes], member)
    else:
        yield file
    file.flush()


def _lock(file: IO[bytes], path: str) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise UsageError(f"{path}: another run is writing to it") from error


def scan(path: str) -> Found:
    """What an earlier run has left.

    Raises:
        UsageError: it is not an output of this command.
    """
    found = Found()
    for place, text in enumerate(_whole_lines(path, found)):
        try:
            line = json.loads(text)
            if "error" in line:
                found.dropped.add(place)
                continue
            number, digest, _ = line["line"], int(line["request"], 16), line["result"]
            if not isinstance(number, int) or number < 1:
                raise ValueError(number)
        except (ValueError, KeyError, TypeError) as error:
            raise UsageError(
                f"{path}: line {place + 1} is no answer of an earlier run; --overwrite starts anew"
            ) from error
        if found.digest(number):
            found.dropped.add(place)
        else:
            found.add(number, digest)
    return found


def _whole_lines(path: str, found: Found) -> Iterator[bytes]:
    """Without a torn end, which is noted in `found`."""
    splitter = LineSplitter()
    with open(path, "rb") as file:
        chunks = iter(lambda: file.read(CHUNK), b"")
        if path.endswith(".gz"):
            chunks = _inflated(chunks, path, found)
        for chunk in chunks:
            yield from splitter.feed(chunk)
    found.torn |= bool(splitter.rest)


def _inflated(chunks: Iterator[bytes], path: str, found: Found) -> Iterator[bytes]:
    """Of as many members as there are. gzip.open would not give the lines before a torn end."""
    member = None
    try:
        for chunk in chunks:
            while chunk:
                member = member or zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
                yield member.decompress(chunk)
                chunk = member.unused_data
                if member.eof:
                    member = None
    except zlib.error as error:
        raise UsageError(f"{path}: not gzip, or damaged: {error}") from error
    found.torn |= member is not None


@contextmanager
def rewritten(path: str, found: Found) -> Iterator[IO[bytes]]:
    """The answers alone, in place of the old file at once; open and locked for more."""
    target = os.path.realpath(path)
    folder, name = os.path.split(target)
    with tempfile.NamedTemporaryFile(dir=folder, prefix=f".{name}.", delete=False) as draft:
        file = cast(IO[bytes], draft)
        try:
            _lock(file, path)
            with _writer(file, path) as writer:
                for place, text in enumerate(_whole_lines(path, Found())):
                    if place not in found.dropped:
                        writer.write(text + b"\n")
            os.fsync(file.fileno())
            shutil.copymode(target, draft.name)
            os.replace(draft.name, target)
        except BaseException:
            os.unlink(draft.name)
            raise
        yield file
