"""What a line of `conf-server think` says of its traces, and which of their answers are right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from conf_server.report.labels import Label
from conf_server.report.matching import Match, matches
from conf_server.thinking.trace_scores import TraceScores
from conf_server.thinking.traces import is_whole
from conf_server.thinking.votes import Ballot


@dataclass(frozen=True, slots=True)
class RecordedTrace:
    """A trace.

    Attributes:
        index: its place among the traces of the line.
        is_warmup: it set the threshold, and nothing could end it.
        status: how it ended.
        group: the number of its answer among those of the line; None where it has none.
        scores: how sure the model was.
        voted: its answer has counted in the run.
    """

    index: int
    is_warmup: bool
    status: str
    group: int | None
    scores: TraceScores
    voted: bool

    @property
    def is_complete(self) -> bool:
        """Whether nobody has ended it early: it is at its own end, or at the most tokens."""
        return is_whole(self.status)


@dataclass(frozen=True)
class Thinking:
    """What a line says.

    Attributes:
        answers: that traces have given, one of each group of equal ones.
        traces: in the order of their indexes; empty where the run has not kept them.
        votes: the number of the answer that won each vote, None where nobody voted; the first
            vote has decided.
        stopped_by: what ended the run for this line.
    """

    answers: tuple[str, ...]
    traces: tuple[RecordedTrace, ...]
    votes: Mapping[str, int | None]
    stopped_by: str


@dataclass(frozen=True)
class Question:
    """A line whose right answers are known.

    Attributes:
        traces: as of `Thinking`.
        right: whether each answer is right, by its number.
    """

    traces: tuple[RecordedTrace, ...]
    right: tuple[bool, ...]

    def is_right(self, group: int | str | None) -> bool:
        """Whether an answer is right; no answer is not."""
        return isinstance(group, int) and self.right[group]


def thinking_of(think: Mapping[str, Any]) -> Thinking:
    """The object `think` of an answer.

    Raises:
        KeyError, TypeError, ValueError: it is not what it should be.
    """
    rows = sorted(think.get("traces") or (), key=lambda row: row["index"])
    answers = [str(group["answer"]) for group in think["groups"]]
    numbers = {answer: number for number, answer in enumerate(answers)}
    by_trace = {
        trace: number for number, group in enumerate(think["groups"]) for trace in group["traces"]
    }
    traces = []
    for row in rows:
        group, answer = by_trace.get(row["index"]), row["answer"]
        if group is None and answer is not None:
            # A trace of no group: its answer is equal to one of the same text, or stands alone.
            group = numbers.get(answer, len(answers))
            answers += [answer] if group == len(answers) else []
        if group is not None and answer is not None:
            numbers.setdefault(answer, group)
        traces.append(_trace(row, group))
    return Thinking(
        answers=tuple(answers),
        traces=tuple(traces),
        votes={name: numbers.get(one["answer"]) for name, one in think["votes"].items()},
        stopped_by=str(think["stopped_by"]),
    )


def _trace(row: Mapping[str, Any], group: int | None) -> RecordedTrace:
    return RecordedTrace(
        index=row["index"],
        is_warmup=row["phase"] == "warmup",
        status=str(row["status"]),
        group=group,
        scores=TraceScores(
            num_tokens=row["num_tokens"],
            mean_conf=row.get("mean_conf"),
            tail_conf=row.get("tail_conf"),
            bottom_window_conf=row.get("bottom_window_conf"),
            min_conf=row.get("min_conf"),
            certainty=row.get("certainty"),
        ),
        voted=bool(row["voted"]),
    )


def question_behind(thinking: Thinking, label: Label | None, match: Match) -> Question | None:
    """The line with its label; None where no reference says which answers are right.

    `correct` of a line is about the answer that won; of the others it says nothing.
    """
    if label is None or not label.references or not thinking.traces:
        return None
    right = [matches(answer, label.references, match) for answer in thinking.answers]
    winner = next(iter(thinking.votes.values()), None)
    if winner is not None and label.says(0):
        right[winner] = bool(label.correct[0])
    return Question(thinking.traces, tuple(right))


def ballots_of(traces: Sequence[RecordedTrace]) -> list[Ballot]:
    """The votes of those that have an answer."""
    return [
        Ballot(trace.index, trace.group, trace.scores)
        for trace in traces
        if trace.group is not None
    ]
