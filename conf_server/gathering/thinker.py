"""Thinks about a question many times: traces are started, ended, and read for their answers."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from conf_server.concurrency import cancel_all
from conf_server.gathering.trace_maker import MadeTrace, NoRoomError, TraceMaker, TraceOrder
from conf_server.gathering.trace_reader import Thoughts, TraceReader
from conf_server.stats.early_stop import EarlyStop, window_mean
from conf_server.thinking.think_plan import Phase, StoppedBy, ThinkPlan
from conf_server.thinking.threshold import threshold
from conf_server.thinking.token_budget import TokenBudget
from conf_server.thinking.traces import Trace


class Listener(Protocol):
    """Who hears of traces while they run."""

    def started(self, index: int, phase: Phase) -> None:
        """A trace has begun."""
        ...

    def window(self, index: int, token: int, mean_conf: float) -> None:
        """A trace has `token` tokens, and the last window of them has this mean, in nats."""
        ...

    def ended(self, trace: Trace) -> None:
        """A trace has ended."""
        ...

    def threshold(self, value: float) -> None:
        """Traces that begin from now on end where a window's mean, in nats, is below this."""
        ...


@dataclass(frozen=True)
class _Running:
    order: TraceOrder
    phase: Phase


class Thinker:
    """Carries out one plan."""

    def __init__(
        self,
        plan: ThinkPlan,
        reader: TraceReader,
        maker: TraceMaker,
        listener: Listener | None,
    ) -> None:
        """
        Args:
            reader: of the same plan, which has read nothing yet.
            listener: None where nobody listens; then traces are seen when they have ended.
        """
        self._plan = plan
        self._maker = maker
        self._listener = listener
        self._reader = reader
        self._tokens = TokenBudget(plan.max_total_tokens, plan.max_tokens)
        self._threshold = plan.below if plan.calibrate == "fixed" else None
        self._running: dict[asyncio.Task[MadeTrace], _Running] = {}
        self._held: list[_Running] = []
        self._num_started = 0
        self._stopped_by: StoppedBy | None = None

    async def think(self) -> Thoughts:
        """Start traces and end them until the plan is carried out.

        Cancelling the caller ends all that run.

        Raises:
            RefusalError: the model refuses to go on.
        """
        try:
            self._start_more()
            while self._running:
                done, _ = await asyncio.wait(self._running, return_when=asyncio.FIRST_COMPLETED)
                for task in sorted(done, key=lambda task: self._running[task].order.index):
                    await self._take(task)
                if self._stopped_by != "consensus" and self._leaves_work() and self._agree():
                    await self._end_all()
                self._start_more()
        finally:
            await cancel_all(self._running)
        assert self._stopped_by is not None
        return self._reader.thoughts(self._threshold, self._stopped_by)

    def _start_more(self) -> None:
        """Start as many traces as there is room for."""
        while self._stopped_by is None and len(self._running) < self._plan.concurrency:
            if self._held:
                return  # the model has no room
            if self._num_started == self._plan.budget:
                self._stopped_by = "budget"
            elif (phase := self._next_phase()) is None:
                return  # the warm-up is to end first
            elif (granted := self._tokens.reserve()) is not None:
                self._start(phase, granted)
            elif self._running:
                return  # they will leave some tokens
            else:
                self._stopped_by = "max_total_tokens"

    def _next_phase(self) -> Phase | None:
        """What the next trace is started as; None where it has to wait for the warm-up."""
        if self._plan.calibrate == "warmup" and self._threshold is None:
            if self._num_started < self._plan.warmup:
                return "warmup"
            return None if self._running else "final"  # no trace has given a threshold
        if self._plan.calibrate == "finishers" and self._threshold is None:
            return "warmup"
        return "final"

    def _start(self, phase: Phase, granted: int) -> None:
        index, plan = self._num_started, self._plan
        rule = None
        if phase == "final" and self._threshold is not None:
            rule = EarlyStop(self._threshold, plan.window, plan.window)
        seed = None if plan.seed is None else _wrapped(plan.seed + index)
        self._num_started += 1
        if self._listener is not None:
            self._listener.started(index, phase)
        self._run(_Running(TraceOrder(index, seed, granted, rule), phase))

    def _run(self, running: _Running) -> None:
        watch = None
        if self._listener is not None:
            watch = _Windows(running.order.index, self._plan.window, self._listener).push
        task = asyncio.create_task(self._maker.make(running.order, watch))
        self._running[task] = running

    async def _take(self, task: asyncio.Task[MadeTrace]) -> None:
        """Take in a trace that has ended."""
        running = self._running.pop(task)
        try:
            made = task.result()
        except NoRoomError as error:
            if not self._running:
                raise error.__cause__ or error from None
            self._held.append(running)  # until another one leaves some
            return
        await self._read(running, made)
        self._calibrate()
        if self._held and self._stopped_by != "consensus":
            self._run(self._held.pop(0))

    async def _read(self, running: _Running, made: MadeTrace) -> None:
        self._tokens.settle(running.order.max_tokens, made.num_tokens)
        trace = await self._reader.read(running.order.index, running.phase, made)
        if self._listener is not None:
            self._listener.ended(trace)

    def _calibrate(self) -> None:
        """Take the threshold from the traces that nothing has ended early, once there are enough.

        Those that run with a threshold tell of the surer ones only: they do not count.
        """
        plan = self._plan
        if plan.calibrate not in ("warmup", "finishers") or self._threshold is not None:
            return
        if plan.calibrate == "warmup" and (self._running or self._num_started < plan.warmup):
            return
        smallest = self._reader.smallest_windows()
        if len(smallest) < (1 if plan.calibrate == "warmup" else plan.warmup):
            return
        self._threshold = threshold(smallest, plan.keep_top)
        if self._listener is not None:
            self._listener.threshold(self._threshold)

    def _leaves_work(self) -> bool:
        """Whether an agreement would save anything."""
        return bool(self._running) or self._stopped_by is None

    async def _end_all(self) -> None:
        """End what runs, and what would run."""
        self._stopped_by = "consensus"
        for running in self._running.values():
            self._maker.end(running.order.index)
        for held in self._held:
            await self._read(held, MadeTrace("", None, None, 0, "abort", None, None))
        self._held.clear()

    def _agree(self) -> bool:
        """Whether further traces would not change the answer."""
        if self._plan.calibrate == "warmup" and self._threshold is None:
            return False
        return self._reader.agree(self._threshold)


def _wrapped(seed: int) -> int:
    """A seed within 64 bits, as vLLM wants it."""
    return (seed + 2**63) % 2**64 - 2**63


class _Windows:
    """Tells a listener of a trace's full windows, one after the other, without overlap."""

    def __init__(self, index: int, window: int, listener: Listener) -> None:
        self._index = index
        self._window = window
        self._listener = listener
        self._values: list[float] = []
        self._tokens = 0

    def push(self, confidence: NDArray) -> None:
        for value in np.asarray(confidence, np.float64).tolist():
            self._tokens += 1
            self._values.append(value)
            if len(self._values) == self._window:
                finite = [one for one in self._values if np.isfinite(one)]
                if finite:
                    self._listener.window(self._index, self._tokens, window_mean(finite))
                self._values.clear()
