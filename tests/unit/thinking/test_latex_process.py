"""The process that compares LaTeX: it is killed when it hangs, and ends with its parent."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest

from conf_server.thinking.answer_groups import AnswerGroups, ComparisonGivenUpError
from conf_server.thinking.latex_child import MEMORY
from conf_server.thinking.latex_process import LatexProcess
from tests.processes import is_running, until

ENDLESS = "9^{9^{9}}"
PATIENT_S = 60.0


def child_of(parent: int) -> int:
    """Its process that compares; other tests may have left some that nobody has waited for."""
    (child,) = (
        child.pid
        for child in psutil.Process(parent).children()
        if child.status() != psutil.STATUS_ZOMBIE
        and "conf_server.thinking.latex_child" in child.cmdline()
    )
    return int(child)


@pytest.fixture
async def patient() -> AsyncIterator[LatexProcess]:
    """One that waits for any comparison."""
    latex = LatexProcess(PATIENT_S)
    yield latex
    await latex.close()


async def test_it_compares_and_groups(patient: LatexProcess) -> None:
    groups = AnswerGroups("latex", patient)
    answers = [r"\frac{1}{2}", "2x", "0.5", "x+x", "é\n", "1/2"]
    assert [await groups.add(answer) for answer in answers] == [0, 1, 0, 1, 2, 0]
    assert groups.warnings == ()


async def test_a_comparison_without_end_is_given_up_and_the_next_is_made() -> None:
    latex = LatexProcess(limit_s=1.0)
    await latex.start()
    first = child_of(os.getpid())
    groups = AnswerGroups("latex", latex)
    assert [await groups.add(answer) for answer in (ENDLESS, "2")] == [0, 1]
    assert groups.warnings == ("latex_timeout",)
    assert not is_running(first)
    await latex.start()
    assert child_of(os.getpid()) != first
    assert not await latex.equal("1", "2")
    await latex.close()


async def test_a_pair_is_compared_once(patient: LatexProcess) -> None:
    assert await patient.equal("x+1", "1+x")
    os.kill(child_of(os.getpid()), signal.SIGSTOP)
    assert await patient.equal("1+x", "x+1")


async def test_a_process_that_dies_is_told_and_started_again(patient: LatexProcess) -> None:
    await patient.start()
    asked = asyncio.create_task(patient.equal(ENDLESS, "2"))
    await asyncio.sleep(0)
    os.kill(child_of(os.getpid()), signal.SIGKILL)
    with pytest.raises(ComparisonGivenUpError):
        await asked
    assert await patient.equal("1/2", "0.5")


async def test_a_caller_that_goes_away_takes_the_comparison_with_it(
    patient: LatexProcess,
) -> None:
    await patient.start()
    first = child_of(os.getpid())
    asked = asyncio.create_task(patient.equal(ENDLESS, "2"))
    await asyncio.sleep(0.1)
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    assert not is_running(first)
    assert await patient.equal("1/2", "0.5")


async def test_it_holds_no_socket_of_the_server(patient: LatexProcess) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.set_inheritable(True)
        ours = os.readlink(f"/proc/self/fd/{server.fileno()}")
        await patient.start()
        files = Path(f"/proc/{child_of(os.getpid())}/fd").iterdir()
        assert ours not in [os.readlink(file) for file in files]


async def test_its_memory_is_limited(patient: LatexProcess) -> None:
    await patient.start()
    _, most = psutil.Process(child_of(os.getpid())).rlimit(psutil.RLIMIT_AS)
    assert 0 < most <= MEMORY


def test_it_dies_with_a_parent_that_never_imports_sympy() -> None:
    code = f"""
import asyncio, sys
from conf_server.thinking.latex_process import LatexProcess
async def main():
    latex = LatexProcess({PATIENT_S})
    await latex.start()
    print("sympy" in sys.modules, flush=True)
    await latex.equal({ENDLESS!r}, "2")
asyncio.run(main())
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"False\n"
        child = child_of(parent.pid)
        parent.kill()
    until(lambda: not is_running(child))
