"""`conf-server score`: POST /v1/score for every line of a file."""

from __future__ import annotations

from collections.abc import Sequence

from conf_server.batch.command import run
from conf_server.batch.options import SCORE


def main(arguments: Sequence[str]) -> int:
    """0 all answered, 1 something was not, 2 for bad usage; 130 and 143 after a signal."""
    return run(SCORE, arguments)
