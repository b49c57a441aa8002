"""Files of JSON objects, one a line: what the report reads."""

from __future__ import annotations

import gzip
import json
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Final, cast

STANDARD_INPUT: Final = "-"


class ReportError(ValueError):
    """A file that cannot be reported on. The message names it."""


def read_objects(path: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a file with the numbers of their lines, counted from 1.

    Lines without anything on them are skipped, and counted.

    Args:
        path: a file, gzip where its name ends in .gz, or `STANDARD_INPUT`.

    Raises:
        ReportError: the file cannot be read, or a line is no JSON object.
    """
    try:
        with _open(path) as file:
            for number, text in enumerate(file, 1):
                if text.strip():
                    yield number, _object(path, number, text)
    except (OSError, EOFError, zlib.error) as error:
        raise ReportError(f"{path}: {getattr(error, 'strerror', None) or error}") from error


def _open(path: str) -> IO[bytes]:
    if path == STANDARD_INPUT:
        return sys.stdin.buffer
    return cast(IO[bytes], gzip.open(path)) if path.endswith(".gz") else Path(path).open("rb")


def _object(path: str, number: int, text: bytes) -> dict[str, Any]:
    try:
        found = json.loads(text.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ReportError(f"{path}: line {number}: {error}") from error
    if not isinstance(found, dict):
        raise ReportError(f"{path}: line {number}: not a JSON object")
    return found
