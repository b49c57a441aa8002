"""Reads traces that have ended: their answers, which of these are equal, and how sure they are."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from conf_server.gathering.trace_maker import MadeTrace
from conf_server.thinking.answer_extraction import extractor
from conf_server.thinking.answer_groups import AnswerGroups, Comparer
from conf_server.thinking.consensus import is_reached
from conf_server.thinking.outcome import Outcome, ballots_of, decide
from conf_server.thinking.survivors import survivors
from conf_server.thinking.think_plan import Phase, StoppedBy, ThinkPlan
from conf_server.thinking.trace_scores import TraceScores, trace_scores
from conf_server.thinking.traces import LENGTH, Trace, is_whole, status_of
from conf_server.thinking.votes import heaviness


@dataclass(frozen=True)
class Thoughts:
    """All traces of a question, and what they come to.

    Attributes:
        traces: those that were started, in their order.
        texts: what was read of each one for its answer, where the plan keeps texts.
        shown: of each group of equal answers, its answer as its first trace gives it.
        threshold: nats; None where there is none.
        stopped_by: why no further trace was started, or what still ran was ended.
        chosen: the trace that stands for the outcome: the heaviest one of those that have voted
            for the winner; where nobody has voted, the heaviest of all.
        warnings: what a reader of the outcome has to know.
    """

    traces: tuple[Trace, ...]
    texts: Mapping[int, str]
    shown: Mapping[int, str]
    threshold: float | None
    stopped_by: StoppedBy
    outcome: Outcome
    chosen: MadeTrace
    warnings: tuple[str, ...]


class TraceReader:
    """Reads the traces of one plan."""

    def __init__(self, plan: ThinkPlan, comparer: Comparer | None = None) -> None:
        """
        Args:
            comparer: of answers, where the plan says `latex`.

        Raises:
            RefusalError: answers cannot be read or compared as the plan says.
        """
        self._plan = plan
        self._extract = extractor(plan.answer)
        self._groups = AnswerGroups(plan.answer.equal, comparer)
        self._traces: list[Trace] = []
        self._texts: dict[int, str] = {}
        self._kept: dict[tuple[int | None, str], tuple[float, int, MadeTrace]] = {}

    async def read(self, index: int, phase: Phase, made: MadeTrace) -> Trace:
        """Take in a trace that has ended."""
        status = status_of(made.finish_reason, made.stop_reason)
        # A pattern of a client's, or the windows of a long trace, take their time.
        answer, scores = await asyncio.to_thread(self._found, made, status)
        group = None if answer is None else await self._groups.add(answer)
        trace = Trace(index, phase, status, answer, group, made.num_tokens, scores)
        self._traces.append(trace)
        if self._plan.keeps_texts:
            self._texts[index] = made.text
        self._keep(trace, made)
        return trace

    def _found(self, made: MadeTrace, status: str) -> tuple[str | None, TraceScores | None]:
        """The answer in a trace, and how sure it is. A trace that was broken off has no answer."""
        answer = scores = None
        if is_whole(status) and not (status == LENGTH and self._plan.answer.extract == "text"):
            answer = self._extract(made.text)
        if made.confidence is not None:
            scores = trace_scores(made.confidence, made.certainty, self._plan.window)
        return answer, scores

    def _keep(self, trace: Trace, made: MadeTrace) -> None:
        """Keep a trace's tokens only if they may become the answer: they take up memory.

        The heaviest of a group may not have been sure enough to vote. The one with the highest
        smallest window then has, if any has.
        """
        for vote in (self._plan.votes[0], "min_window_weighted"):
            weight = -1.0 if trace.scores is None else heaviness(vote, trace.scores)
            place = (trace.group, vote)
            best = self._kept.get(place)
            if best is None or (weight, -trace.index) > (best[0], -best[1]):
                self._kept[place] = (weight, trace.index, made)

    def smallest_windows(self) -> list[float]:
        """Of the traces that nothing could end early, the mean of the least confident window."""
        return [
            trace.scores.min_conf
            for trace in self._traces
            if trace.phase == "warmup"
            and trace.is_whole
            and trace.scores is not None
            and trace.scores.min_conf is not None
        ]

    def agree(self, threshold: float | None) -> bool:
        """Whether those that have ended agree so far that no further one is wanted.

        Args:
            threshold: nats, for those that vote; None for none.
        """
        plan, ballots = self._plan, ballots_of(self._traces)
        admitted = survivors(ballots, threshold, plan.min_voters)
        if admitted.relaxed:
            return False
        outstanding = plan.budget - len(self._traces)
        return is_reached(plan.consensus, admitted.ballots, outstanding)

    def thoughts(self, threshold: float | None, stopped_by: StoppedBy) -> Thoughts:
        """All that was read, and the votes on it."""
        traces = tuple(sorted(self._traces, key=lambda trace: trace.index))
        outcome = decide(self._plan, traces, threshold)
        shown: dict[int, str] = {}
        for trace in traces:
            if trace.group is not None and trace.answer is not None:
                shown.setdefault(trace.group, trace.answer)
        warnings = list(self._groups.warnings)
        if outcome.relaxed:
            warnings.append("filter_relaxed")
        if outcome.winner is None:
            warnings.append("no_answer")
        if threshold is None and self._plan.calibrate != "none":
            warnings.append("no_threshold")
        return Thoughts(
            traces=traces,
            texts=self._texts,
            shown=shown,
            threshold=threshold,
            stopped_by=stopped_by,
            outcome=outcome,
            chosen=self._chosen(outcome),
            warnings=tuple(warnings),
        )

    def _chosen(self, outcome: Outcome) -> MadeTrace:
        winner = outcome.winner
        kept = [
            (index in outcome.voted, weight, -index, made)
            for (group, _), (weight, index, made) in self._kept.items()
            if winner is None or group == winner
        ]
        return max(kept, key=lambda one: one[:3])[3]
