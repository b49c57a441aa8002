"""Compares answers in LaTeX in a process of its own, which can be ended in the middle of one.

SymPy may take hours or all memory for `9^{9^{9}}`, in a single step of the interpreter that no
thread can interrupt. math-verify's own time limit is `signal.alarm`, which works in the main
thread alone, and is turned off here. So the process is killed when a comparison takes too long, and
the next one starts another: half a second to a second, which counts for no comparison's time.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections import OrderedDict
from typing import Final

from conf_server.thinking.answer_groups import ComparisonGivenUpError

LIMIT_S: Final = 5.0
"""Seconds for one comparison, from when the process has it: math-verify's own limit."""
START_S: Final = 60.0
"""Seconds that the process may take to import SymPy, on a machine that is busy."""
REMEMBERED: Final = 4096
"""Pairs of answers whose comparison is not done again."""

logger = logging.getLogger("vllm.conf_server.latex")


class LatexProcessError(RuntimeError):
    """The process does not start. It has said why on standard error."""


class LatexProcess:
    """Compares answers, one pair at a time, for all requests of a server.

        latex = LatexProcess()
        await latex.start()
        await latex.equal("1/2", "0.5")
        await latex.close()

    It belongs to one event loop. On Linux the process ends with the thread of that loop, else
    when its standard input is closed.
    """

    def __init__(self, limit_s: float = LIMIT_S) -> None:
        """
        Args:
            limit_s: seconds for one comparison, without those that it waits for its turn.
        """
        self._limit_s = limit_s
        self._turn = asyncio.Lock()
        self._process: Process | None = None
        self._known: OrderedDict[tuple[str, str], bool] = OrderedDict()

    async def start(self) -> None:
        """Start the process, unless it runs, and wait until it can compare.

        Raises:
            LatexProcessError: it cannot.
        """
        async with self._turn:
            await self._running()

    async def equal(self, one: str, other: str) -> bool:
        """Whether math-verify takes one of the answers for the other, in either direction.

        Raises:
            ComparisonGivenUpError: it has not told in time, or has run out of memory.
            LatexProcessError: the process cannot be started.
        """
        pair = (one, other) if one <= other else (other, one)
        if pair in self._known:
            self._known.move_to_end(pair)
            return self._known[pair]
        async with self._turn:
            equal = await self._asked(pair)
        self._known[pair] = equal
        if len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        return equal

    async def close(self) -> None:
        """End the process. A comparison that is under way is waited for first."""
        async with self._turn:
            await self._end()

    # In turn.

    async def _asked(self, pair: tuple[str, str]) -> bool:
        process = await self._running()
        try:
            async with asyncio.timeout(self._limit_s):
                said = await _answer(process, json.dumps(pair))
        except BaseException as error:  # the caller may be cancelled, too: the process goes on
            await self._end()
            if isinstance(error, TimeoutError):
                raise ComparisonGivenUpError(f"after {self._limit_s} s") from error
            raise
        if not said.endswith(b"\n"):
            await self._end()
            logger.warning("The process that compares LaTeX has died of two answers.")
            raise ComparisonGivenUpError("the process has died")
        equal: bool | None = json.loads(said)
        if equal is None:
            raise ComparisonGivenUpError("out of memory")
        return equal

    async def _running(self) -> Process:
        if self._process is not None and self._process.returncode is None:
            return self._process
        self._process = process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "conf_server.thinking.latex_child", str(os.getpid())),
            stdin=PIPE,
            stdout=PIPE,
        )
        assert process.stdout is not None
        try:
            async with asyncio.timeout(START_S):
                ready = await process.stdout.readline()
        except BaseException as error:
            await self._end()
            if isinstance(error, TimeoutError):
                raise LatexProcessError(f"it has not started in {START_S:.0f} s") from error
            raise
        if not ready:
            await self._end()
            raise LatexProcessError(f"it has ended with status {process.returncode}")
        return process

    async def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if process.returncode is None:
            process.kill()
        await process.wait()


async def _answer(process: Process, question: str) -> bytes:
    """One line for one line; no whole line where the process has died."""
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(question.encode() + b"\n")
        await process.stdin.drain()
    except ConnectionError:
        return b""
    return await process.stdout.readline()
