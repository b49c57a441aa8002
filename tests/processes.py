"""Waiting for things that other processes and threads do."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import psutil  # type: ignore[import-untyped]

DEADLINE_S = 60


def until(condition: Callable[[], bool]) -> None:
    """Wait until the condition holds."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def is_running(pid: int) -> bool:
    """Whether a process has not ended. One that has ended may still wait to be reaped."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def runs_scorer(process: psutil.Process) -> bool:
    """Whether this is a scorer that has not ended."""
    try:
        return "conf_server.scorer" in process.cmdline()
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return False
