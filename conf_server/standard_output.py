"""Standard output for results: nothing else on it, and no complaint when its reader has gone."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import TextIO


def print_result(text: str, stdout: TextIO | None = None) -> None:
    """Print a command's result. A reader who has seen enough (`| head -1`) is no error.

    Args:
        stdout: where to print; None for `sys.stdout`.
    """
    stdout = stdout or sys.stdout
    try:
        print(text, file=stdout, flush=True)
    except BrokenPipeError:
        forget(stdout)


def forget(stdout: TextIO) -> None:
    """Send what is left in the buffer nowhere: Python would flush it on its way out, and fail."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stdout.fileno())
    os.close(nowhere)


@contextmanager
def result_alone() -> Iterator[TextIO]:
    """Keep standard output for the result; send what else is printed to standard error.

    That holds for every process that is started meanwhile: vLLM and its processes log to
    standard output.
    """
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with (
            open(kept, "w", encoding="utf-8", closefd=False) as stdout,
            redirect_stdout(sys.stderr),
        ):
            yield stdout
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)
