"""Traces are started, ended and voted on as the plan says."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

from conf_server.gathering.thinker import Thinker
from conf_server.gathering.trace_maker import MadeTrace, NoRoomError, TraceOrder, Watch
from conf_server.gathering.trace_reader import Thoughts, TraceReader
from conf_server.refusal import RefusalError
from conf_server.stats.early_stop import STOP_REASON
from conf_server.thinking.answer_extraction import AnswerRule
from conf_server.thinking.consensus import Consensus
from conf_server.thinking.think_plan import ThinkPlan

PLAN = ThinkPlan(
    budget=8,
    concurrency=2,
    calibrate="none",
    warmup=0,
    keep_top=0.5,
    below=None,
    window=2,
    consensus=Consensus("none"),
    votes=("min_window_weighted", "majority"),
    min_voters=1,
    answer=AnswerRule("text"),
    max_total_tokens=1000,
    max_tokens=10,
    seed=None,
)


@dataclass(frozen=True)
class Script:
    """What a trace says, and how sure it is of each of its tokens."""

    text: str = "a"
    confidence: tuple[float, ...] = (5.0, 5.0, 5.0)
    reason: str = "stop"


@dataclass
class Scripted:
    """Makes the traces of a script, one token each time that the loop turns."""

    scripts: list[Script]
    orders: list[TraceOrder] = field(default_factory=list)
    most: int = 0
    room: int = 99
    _running: set[int] = field(default_factory=set)
    _ended: set[int] = field(default_factory=set)

    async def make(self, order: TraceOrder, watch: Watch | None) -> MadeTrace:
        if len(self._running) >= self.room:
            raise NoRoomError from RefusalError(None, "no room", status=503)
        self.orders.append(order)
        self._running.add(order.index)
        self.most = max(self.most, len(self._running))
        try:
            return await self._made(order, watch)
        finally:
            self._running.discard(order.index)

    async def _made(self, order: TraceOrder, watch: Watch | None) -> MadeTrace:
        script = self.scripts[order.index]
        values: list[float] = []
        for value in script.confidence[: order.max_tokens]:
            await asyncio.sleep(0)
            if order.index in self._ended:
                return MadeTrace("", None, None, len(values), "abort", None, script)
            values.append(value)
            if watch is not None:
                watch(np.array([value]))
            rule = order.early_stop
            window = values if rule is None else values[-rule.window :]
            if rule and len(window) == rule.window and np.mean(window) < rule.below:
                return made(script, values, "stop", STOP_REASON)
        whole = len(values) == len(script.confidence)
        return made(script, values, script.reason if whole else "length", None)

    def end(self, index: int) -> None:
        self._ended.add(index)


def made(script: Script, values: list[float], reason: str, stop: str | None) -> MadeTrace:
    return MadeTrace(script.text, np.array(values), None, len(values), reason, stop, script)


def think(maker: Scripted, listener: Any = None, **changes: Any) -> Thoughts:
    plan = replace(PLAN, budget=len(maker.scripts), **changes)
    return asyncio.run(Thinker(plan, TraceReader(plan), maker, listener).think())


def statuses(thoughts: Thoughts) -> list[str]:
    return [trace.status for trace in thoughts.traces]


def winner(thoughts: Thoughts) -> str | None:
    group = thoughts.outcome.winner
    return None if group is None else thoughts.shown[group]


def test_all_traces_run_and_vote() -> None:
    maker = Scripted([Script("a"), Script("b"), Script("a"), Script("c", (9.0, 9.0))])
    thoughts = think(maker)
    assert winner(thoughts) == "a"  # 5 + 5 against 9
    assert thoughts.stopped_by == "budget"
    assert [share[1:] for share in thoughts.outcome.shares] == [(2, 10.0), (1, 9.0), (1, 5.0)]
    assert maker.most == 2
    assert thoughts.chosen.source is maker.scripts[0]


def test_seeds_count_on_and_stay_in_64_bits() -> None:
    maker = Scripted([Script()] * 3)
    think(maker, seed=2**63 - 2)
    assert [order.seed for order in maker.orders] == [2**63 - 2, 2**63 - 1, -(2**63)]
    think(fresh := Scripted([Script()]))
    assert fresh.orders[0].seed is None


def test_the_warm_up_gives_the_threshold_for_the_others() -> None:
    warm = [Script("a", (4.0, 6.0, 8.0)), Script("b", (2.0, 2.0, 2.0))]  # 5 and 2
    unsure = Script("b", (4.0, 1.0, 9.0))  # its first window is below
    maker = Scripted([*warm, Script("a"), unsure])
    thoughts = think(maker, calibrate="warmup", warmup=2, keep_top=0.5)
    assert thoughts.threshold == 3.5
    assert [order.early_stop and order.early_stop.below for order in maker.orders] == [
        *(None, None, 3.5, 3.5)
    ]
    assert statuses(thoughts) == ["finished", "finished", "finished", "stopped_low_confidence"]
    assert [trace.num_tokens for trace in thoughts.traces] == [3, 3, 3, 2]
    assert thoughts.outcome.voted == {0, 2}  # the unsure trace of the warm-up was dropped as well
    assert thoughts.traces[3].answer is None


def test_finishers_give_the_threshold_while_others_begin() -> None:
    maker = Scripted([Script(confidence=(float(i + 1),) * 3) for i in range(6)])
    thoughts = think(maker, calibrate="finishers", warmup=2, concurrency=3, keep_top=0.5)
    assert thoughts.threshold == 1.5
    assert [trace.phase for trace in thoughts.traces] == [*["warmup"] * 3, *["final"] * 3]


def test_a_threshold_that_is_given() -> None:
    maker = Scripted([Script(confidence=(1.0, 1.0, 1.0)), Script()])
    thoughts = think(maker, calibrate="fixed", below=2.0)
    assert statuses(thoughts) == ["stopped_low_confidence", "finished"]
    assert thoughts.threshold == 2.0


def test_too_few_sure_traces_let_all_vote() -> None:
    maker = Scripted([Script("a", (float(i),) * 3) for i in range(1, 5)])
    thoughts = think(maker, calibrate="warmup", warmup=3, keep_top=0.1, min_voters=3)
    assert "filter_relaxed" in thoughts.warnings
    assert thoughts.outcome.voted == {0, 1, 2, 3}


def test_an_agreement_ends_what_runs() -> None:
    long = Script("b", (5.0,) * 100_000)
    maker = Scripted([*[Script("a")] * 3, long, long, Script("b")])
    thoughts = think(
        maker,
        concurrency=5,
        max_tokens=100_000,
        max_total_tokens=500_000,
        consensus=Consensus("weighted_share", 0.9, 3),
    )
    assert thoughts.stopped_by == "consensus"
    assert statuses(thoughts) == [*["finished"] * 3, "cancelled", "cancelled"]
    assert [trace.scores is None for trace in thoughts.traces] == [*[False] * 3, True, True]
    assert winner(thoughts) == "a"


def test_no_agreement_before_the_warm_up_has_ended() -> None:
    maker = Scripted([Script("a")] * 6)
    consensus = Consensus("weighted_share", 0.9, 1)
    thoughts = think(maker, calibrate="warmup", warmup=3, concurrency=1, consensus=consensus)
    assert len(thoughts.traces) == 3
    assert thoughts.stopped_by == "consensus"


def test_tokens_of_all_are_never_more_than_allowed() -> None:
    maker = Scripted([Script(confidence=(5.0,) * 10)] * 6)
    thoughts = think(maker, concurrency=6, max_total_tokens=34)
    assert maker.most == 3  # each may need ten
    assert [trace.num_tokens for trace in thoughts.traces] == [10, 10, 10, 4]
    assert statuses(thoughts)[-1] == "length"
    assert thoughts.stopped_by == "max_total_tokens"


def test_what_short_traces_leave_is_used() -> None:
    maker = Scripted([Script(confidence=(5.0,) * 2)] * 6)
    thoughts = think(maker, concurrency=6, max_total_tokens=20)
    assert thoughts.stopped_by == "budget"
    assert maker.most == 2


def test_a_text_that_was_cut_is_no_answer() -> None:
    thoughts = think(Scripted([Script(confidence=(5.0,) * 20)]))
    assert thoughts.traces[0].answer is None
    assert "no_answer" in thoughts.warnings
    assert thoughts.chosen.num_tokens == 10  # something has to be told


def test_a_full_queue_is_waited_for() -> None:
    maker = Scripted([Script(str(index)) for index in range(5)], room=2)
    thoughts = think(maker, concurrency=4)
    assert len(thoughts.traces) == 5
    assert maker.most == 2
    with pytest.raises(RefusalError, match="no room"):
        think(Scripted([Script()], room=0))


def test_a_failure_ends_all() -> None:
    class Failing(Scripted):
        async def _made(self, order: TraceOrder, watch: Watch | None) -> MadeTrace:
            if order.index == 1:
                raise RefusalError("seed", "it is wrong")
            return await super()._made(order, watch)

    maker = Failing([Script(confidence=(5.0,) * 10)] * 3)
    with pytest.raises(RefusalError, match="it is wrong"):
        think(maker)
    assert not maker._running


def test_who_is_cancelled_ends_all() -> None:
    maker = Scripted([Script(confidence=(5.0,) * 10)] * 3)

    async def leave() -> None:
        plan = replace(PLAN, budget=3)
        task = asyncio.create_task(Thinker(plan, TraceReader(plan), maker, None).think())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(leave())
    assert maker.orders
    assert not maker._running


class Heard:
    """Keeps what it hears."""

    def __init__(self) -> None:
        self.words: list[tuple[Any, ...]] = []

    def started(self, index: int, phase: str) -> None:
        self.words.append(("started", index, phase))

    def window(self, index: int, token: int, mean_conf: float) -> None:
        self.words.append(("window", index, token, mean_conf))

    def ended(self, trace: Any) -> None:
        self.words.append(("ended", trace.index, trace.status))

    def threshold(self, value: float) -> None:
        self.words.append(("threshold", value))


def test_a_listener_hears_of_all_in_order() -> None:
    heard = Heard()
    maker = Scripted([Script(confidence=(1.0, 3.0, 5.0, 7.0, 9.0)), Script(confidence=(9.0,))])
    think(maker, heard, calibrate="warmup", warmup=1, concurrency=1)
    assert heard.words == [
        ("started", 0, "warmup"),
        ("window", 0, 2, 2.0),
        ("window", 0, 4, 6.0),
        ("ended", 0, "finished"),
        ("threshold", 2.0),
        ("started", 1, "final"),
        ("ended", 1, "finished"),
    ]


def test_the_heaviest_voter_of_the_winner_is_chosen() -> None:
    sure_on_average = Script("a", (1.0, 1.0, 30.0, 30.0))  # ended nowhere in the warm-up, dropped
    voter = Script("a", (6.0, 6.0))
    maker = Scripted([sure_on_average, voter, Script("b", (5.0, 5.0))])
    thoughts = think(maker, calibrate="warmup", warmup=2, keep_top=0.5, votes=("mean_weighted",))
    assert thoughts.threshold == 3.5
    assert thoughts.chosen.source is voter
