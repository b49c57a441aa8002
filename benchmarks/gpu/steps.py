"""Runs commands one after the other within a time budget, and goes on where it was cut off."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from benchmarks.gpu.workspace import ROOT

# A benchmark that is told to end takes this long to end its servers.
GRACE_S = 30


class Outcome(StrEnum):
    """What became of a step."""

    BEFORE = "done before"
    DONE = "done"
    FAILED = "failed"
    CUT_OFF = "cut off"
    NOT_BEGUN = "not begun"


@dataclass(frozen=True)
class Step:
    """A command of a plan.

    Attributes:
        name: also that of its log.
        at_least_s: with less time left it is not begun.
        repeat: its own results say what is left to do, so that it is planned only if something is.
    """

    name: str
    command: Sequence[str | Path]
    at_least_s: float
    repeat: bool = False


class Budget:
    """Seconds until everything has to have ended."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        return self._end - time.monotonic()


def run(
    steps: Sequence[Step], budget: Budget, out: Path, environ: Mapping[str, str]
) -> dict[str, Outcome]:
    """Run what has not been done yet and fits.

    A step that is done leaves `out/NAME.done`; each writes `out/NAME.log`. A step that is cut
    off gets SIGINT GRACE_S seconds before the budget ends, SIGKILL at its end.

    Returns:
        Step name -> outcome.
    """
    out.mkdir(parents=True, exist_ok=True)
    outcomes = {}
    for step in steps:
        outcomes[step.name] = _outcome(step, budget, out, environ)
        print(f"{step.name}: {outcomes[step.name]}; {budget.left():.0f} s left", flush=True)
    return outcomes


def _outcome(step: Step, budget: Budget, out: Path, environ: Mapping[str, str]) -> Outcome:
    mark = out / f"{step.name}.done"
    if mark.exists() and not step.repeat:
        return Outcome.BEFORE
    if budget.left() < step.at_least_s + GRACE_S:
        return Outcome.NOT_BEGUN
    status = _run(step, budget, out / f"{step.name}.log", environ)
    if status is None:
        return Outcome.CUT_OFF
    if status:
        print(_tail(out / f"{step.name}.log"))
        return Outcome.FAILED
    mark.touch()
    return Outcome.DONE


def _run(step: Step, budget: Budget, log: Path, environ: Mapping[str, str]) -> int | None:
    """The command's exit status; None if it did not end in time."""
    with log.open("wb") as file:
        process = subprocess.Popen(
            step.command,
            env=dict(environ),
            cwd=ROOT,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        return process.wait(timeout=max(0, budget.left() - GRACE_S))
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)  # pytest, too, ends its servers then
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=GRACE_S)
        return None
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _tail(log: Path, lines: int = 30) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
