"""Lines out, and what an earlier run has left there."""

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
from dataclasses import dataclass, field, replace
from typing import IO, Any, Final, cast

from conf_server.batch.options import STANDARD_STREAM, UsageError
from conf_server.batch.records import KEPT, Answered, kept_digest, kept_fields, parse_output
from conf_server.batch.streams import CHUNK, LineSplitter

BEGINNING: Final = b'{"line": '
"""Of every line that we write."""


@dataclass
class Found:
    """What an output holds before the run.

    Attributes:
        requests: by line of the input, the digest of the request that is answered; 0 for none.
        kept: by line of the input, the digest of what the answer's line repeats of it.
        fields: by line of the input, see `kept_fields`.
        server: what has answered; None where nothing is.
        count: answered lines.
        dropped: places of the lines that hold no answer, or a second one.
        torn: whether its end is that of a killed run.
    """

    requests: array[int] = field(default_factory=lambda: array("Q", [0]))
    kept: array[int] = field(default_factory=lambda: array("Q", [0]))
    fields: array[int] = field(default_factory=lambda: array("B", [0]))
    server: str | None = None
    count: int = 0
    dropped: set[int] = field(default_factory=set)
    torn: bool = False

    @property
    def last(self) -> int:
        """The last line of the input that is answered; 0 for none."""
        return len(self.requests) - 1

    def request(self, line: int) -> int:
        return self.requests[line] if line <= self.last else 0

    def add(self, answered: Answered) -> None:
        line = answered.line
        if line > self.last:
            more = line - self.last
            for values in (self.requests, self.kept, self.fields):
                values.frombytes(bytes(values.itemsize * more))
        self.requests[line] = answered.request
        self.kept[line] = kept_digest(answered.kept)
        self.fields[line] = kept_fields(answered.kept)
        self.count += 1

    def lost(self, line: int, kept: Mapping[str, Any]) -> list[str]:
        """Of `KEPT`, what the answer's line has and `kept` has not."""
        fields = self.fields[line] & ~kept_fields(kept)
        return [name for place, name in enumerate(KEPT) if fields >> place & 1]


class Output:
    """Writes lines that reach the system one by one, once it has begun.

    Attributes:
        found: what was there.
    """

    def __init__(self, path: str, file: IO[bytes], found: Found, stack: ExitStack) -> None:
        self._path = path
        self._file = file
        self._stack = stack
        self.found = found

    def begin(self, overwrite: bool, kept: Mapping[int, dict[str, Any]]) -> None:
        """Leave the answers alone there, a torn end and what has failed go.

        Args:
            overwrite: leave nothing.
            kept: by line of the input, what answers are to repeat of it from now on.

        Raises:
            OSError: the disk is full, say. What was there still is.
        """
        if overwrite and self._path != STANDARD_STREAM and _is_regular(self._file):
            self._file.truncate(0)
        if self.found.torn or self.found.dropped or kept:
            self._file = self._stack.enter_context(rewritten(self._path, self.found, kept))
        self._file = self._stack.enter_context(_writer(self._file, self._path))

    def write(self, line: Mapping[str, Any]) -> None:
        """
        Raises:
            OSError: the disk is full, or nobody reads the pipe.
        """
        self._file.write(json.dumps(line).encode() + b"\n")
        self._file.flush()


@contextmanager
def open_output(path: str, overwrite: bool) -> Iterator[Output]:
    """What is there stays as it is until the output begins.

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
        except OSError as error:
            raise UsageError(f"{path}: {error.strerror or error}") from error
        yield Output(path, file, found, stack)


def _is_regular(file: IO[bytes]) -> bool:
    return stat.S_ISREG(os.fstat(file.fileno()).st_mode)


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
        UsageError: it is not an output of this command, or one of two servers.
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
        found.server = answered.server
        found.add(answered)
    return found


def _foreign(path: str, what: str) -> UsageError:
    return UsageError(f"{path}: {what} is no answer of an earlier run; --overwrite starts anew")


def _whole_lines(path: str, found: Found) -> Iterator[bytes]:
    """Without a torn end, which is noted in `found`.

    Raises:
        UsageError: an end that we cannot have written.
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
    """Whether it can be the beginning of one of our lines, or a whole one."""
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
def rewritten(path: str, found: Found, kept: Mapping[int, dict[str, Any]]) -> Iterator[IO[bytes]]:
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
                        writer.write((_relabelled(text, kept) if kept else text) + b"\n")
            os.fsync(file.fileno())
            shutil.copymode(target, draft.name)
            os.replace(draft.name, target)
        except BaseException:
            os.unlink(draft.name)
            raise
        yield file


def _relabelled(text: bytes, kept: Mapping[int, dict[str, Any]]) -> bytes:
    answered = parse_output(text)
    if answered is None or answered.line not in kept:
        return text
    return json.dumps(replace(answered, kept=kept[answered.line]).to_json()).encode()
