"""The file of answers: what an earlier run has left there, and the lines that are added."""

from __future__ import annotations

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
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import IO, Any, Final, cast

from conf_server.batch.options import STANDARD_STREAM, UsageError
from conf_server.batch.records import Answered, parse_output
from conf_server.batch.streams import CHUNK, LineSplitter

BEGINNING: Final = b'{"line": '
"""The beginning of every line that we write."""


@dataclass
class Found:
    """What an output holds before the run.

    Attributes:
        requests: by line of the input, the digest of the request that is answered; 0 for none.
        server: what has answered; None where nothing is answered.
        count: how many lines of the input are answered.
        dropped: places of the lines that hold no answer, or a second one to the same line.
        torn: whether the file ends in the middle of a line, or of a gzip member.
    """

    requests: array[int] = field(default_factory=lambda: array("Q", [0]))
    server: str | None = None
    count: int = 0
    dropped: set[int] = field(default_factory=set)
    torn: bool = False

    @property
    def last(self) -> int:
        """The number of the input's last line that is answered; 0 for none."""
        return len(self.requests) - 1

    def request(self, line: int) -> int:
        """The digest of the request that is answered for a line of the input; 0 for none."""
        return self.requests[line] if line <= self.last else 0

    def add(self, answered: Answered) -> None:
        """Take note of an answer."""
        line = answered.line
        if line > self.last:
            self.requests.frombytes(bytes(self.requests.itemsize * (line - self.last)))
        self.requests[line] = answered.request
        self.server = answered.server
        self.count += 1


class Output:
    """Writes lines, each of which reaches the operating system before the next one is written.

    Attributes:
        found: what was there before.
    """

    def __init__(self, path: str, file: IO[bytes], found: Found, stack: ExitStack) -> None:
        self._path = path
        self._file = file
        self._stack = stack
        self.found = found

    def begin(self, overwrite: bool) -> None:
        """Make room for new lines: a torn end and failed lines go, the answers stay.

        Args:
            overwrite: whether the answers go too.

        Raises:
            OSError: the disk is full, for example. What was there is still there then.
        """
        if overwrite and self._path != STANDARD_STREAM and _is_regular(self._file):
            self._file.truncate(0)
        if self.found.torn or self.found.dropped:
            self._file = self._stack.enter_context(rewritten(self._path, self.found))
        self._file = self._stack.enter_context(_writer(self._file, self._path))

    def write(self, line: Mapping[str, Any]) -> None:
        """Add one line.

        Raises:
            OSError: the disk is full, or nobody reads the pipe.
        """
        self._file.write(json.dumps(line).encode() + b"\n")
        self._file.flush()


@contextmanager
def open_output(path: str, overwrite: bool) -> Iterator[Output]:
    """Open an output, lock it and read it. It stays as it is until `Output.begin`.

    Raises:
        UsageError: it cannot be opened, another run writes to it, or it holds something else.
    """
    with ExitStack() as stack:
        if path == STANDARD_STREAM:
            yield Output(path, sys.stdout.buffer, Found(), stack)
            return
        try:
            file = stack.enter_context(open(path, "ab"))
            _lock(file, path)
            found = Found() if overwrite or not _is_regular(file) else scan(path)
        except FileNotFoundError as error:
            raise UsageError(f"-o {path}: no such folder: {os.path.dirname(path)}") from error
        except OSError as error:
            raise UsageError(f"-o {path}: {error.strerror or error}") from error
        yield Output(path, file, found, stack)


def _is_regular(file: IO[bytes]) -> bool:
    return stat.S_ISREG(os.fstat(file.fileno()).st_mode)


@contextmanager
def _writer(file: IO[bytes], path: str) -> Iterator[IO[bytes]]:
    """The file itself, or a new gzip member at its end where its name ends in .gz."""
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
    """Read what an earlier run has left.

    Raises:
        UsageError: the file is not an output of this command, or has answers of two servers.
    """
    found = Found()
    for place, text in enumerate(_whole_lines(path, found)):
        try:
            answered = parse_output(text)
        except (ValueError, RecursionError) as error:
            raise _foreign(path, f"line {place + 1}") from error
        if answered is None or found.request(answered.line):
            found.dropped.add(place)
            continue
        if found.server not in (None, answered.server):
            raise UsageError(
                f"{path}: line {place + 1} is an answer of {answered.server}, "
                f"those before are of {found.server}"
            )
        found.add(answered)
    return found


def _foreign(path: str, what: str) -> UsageError:
    return UsageError(f"{path}: {what} is no answer of an earlier run; --overwrite starts anew")


def _whole_lines(path: str, found: Found) -> Iterator[bytes]:
    """The lines that have an end. That the last one has none is noted in `found`.

    Raises:
        UsageError: what comes after the last line's end cannot have been written by a run.
    """
    splitter = LineSplitter()
    with open(path, "rb") as file:
        chunks = iter(lambda: file.read(CHUNK), b"")
        if path.endswith(".gz"):
            chunks = _inflated(chunks, path, found)
        for chunk in chunks:
            yield from splitter.feed(chunk)
    if splitter.rest:
        found.torn = True
        if not _may_be_torn(splitter.rest):
            raise _foreign(path, "its end")


def _may_be_torn(rest: bytes) -> bool:
    """Whether this can be the beginning of a line that a run has written, or a whole one."""
    try:
        json.loads(rest)
    except (ValueError, RecursionError):
        return rest[: len(BEGINNING)] == BEGINNING[: len(rest)]
    try:
        parse_output(rest)
    except ValueError:
        return False
    return True


def _inflated(chunks: Iterator[bytes], path: str, found: Found) -> Iterator[bytes]:
    """The content of all gzip members, the torn last one's included.

    `gzip.open` would not give the lines before a torn end.
    """
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
    """Replace the file at once by one that holds its answers alone; open and locked for more."""
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
