"""What `/v1/think/chat/completions` answers: one answer, and the traces that voted for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from conf_server.client.chat_answer import Chat, chat_of
from conf_server.client.results import Results
from conf_server.client.tokens import Json


@dataclass(frozen=True)
class AnswerGroup:
    """Traces whose answers count as equal.

    Attributes:
        answer: as the first of them has it.
        votes: how many traces voted for it.
        weight: what their votes weigh together.
        traces: their places among all traces.
    """

    answer: str
    votes: int
    weight: float | None
    traces: tuple[int, ...]

    def row(self) -> dict[str, Any]:
        """Its row in a table."""
        return dict(vars(self))


@dataclass(frozen=True)
class Vote:
    """What one way of voting comes to.

    Attributes:
        answer: None where no trace had a vote.
        num_votes: how many traces were counted, whatever their answers are.
        confidence: the mean of what these were weighted or ranked by, in nats, higher is surer;
            None where a way of voting weighs all alike.
    """

    answer: str | None
    num_votes: int
    confidence: float | None


@dataclass(frozen=True)
class Trace:
    """One of the times that the model thought.

    Attributes:
        index: its place among all traces of the call.
        phase: `warmup` or `final`.
        status: `finished`, `stopped_low_confidence`, `cancelled` or `length`.
        answer: that was found in its text; None where there is none.
        num_tokens: tokens that it generated.
        min_conf: the least mean confidence of a window, in nats; higher is surer, as of all four.
        mean_conf: mean confidence of its tokens.
        tail_conf: that of its last tokens.
        bottom_window_conf: that of its least confident windows.
        certainty: mean divergence of its tokens' distributions from the uniform one, in nats.
        voted: whether its answer counted.
        text: what it said; None without `traces="full"`.
    """

    index: int
    phase: str
    status: str
    answer: str | None
    num_tokens: int
    min_conf: float | None
    mean_conf: float | None
    tail_conf: float | None
    bottom_window_conf: float | None
    certainty: float | None
    voted: bool
    text: str | None

    def row(self) -> dict[str, Any]:
        """Its row in a table."""
        return dict(vars(self))


@dataclass(frozen=True)
class Thought:
    """The answer that many traces voted for.

    Attributes:
        answer: None where no trace had one.
        stopped_by: what ended the call: `consensus`, `budget` or `max_total_tokens`.
        threshold: the confidence, in nats, below which traces were ended; None where none was.
        groups: the different answers, and who gave each.
        votes: what each way of voting that was asked for comes to.
        traces: all of them; empty with `traces="none"`.
        usage: tokens by phase.
        warnings: what the server had to do otherwise than asked, or could not.
        chat: the same answer as a chat's: the text is that of the winner's heaviest trace.
        raw: what the server has sent.
    """

    answer: str | None
    stopped_by: str
    threshold: float | None
    groups: Results[AnswerGroup]
    votes: Mapping[str, Vote]
    traces: Results[Trace]
    usage: Json
    warnings: tuple[str, ...]
    chat: Chat
    raw: Json = field(repr=False)

    @property
    def text(self) -> str:
        return self.chat.text

    def row(self) -> dict[str, Any]:
        """Its row in a table: the answer, and a column for each vote."""
        own = {name: getattr(self, name) for name in ("answer", "stopped_by", "threshold")}
        votes = {f"vote.{name}": vote.answer for name, vote in self.votes.items()}
        return {**own, **votes, **self.usage}


def thought_of(found: Json) -> Thought:
    """The answer of POST /v1/think/chat/completions."""
    think = found["think"]
    return Thought(
        answer=think["answer"],
        stopped_by=think["stopped_by"],
        threshold=think["threshold"],
        groups=Results(map(_group, think["groups"])),
        votes={name: _vote(one) for name, one in think["votes"].items()},
        traces=Results(map(_trace, think.get("traces") or ())),
        usage=think["usage"],
        warnings=tuple(think.get("warnings") or ()),
        chat=chat_of(found),
        raw=found,
    )


def _group(found: Json) -> AnswerGroup:
    traces = tuple(found["traces"])
    return AnswerGroup(found["answer"], found["votes"], found["weight"], traces)


def _vote(found: Json) -> Vote:
    return Vote(found["answer"], found["num_votes"], found.get("confidence"))


def _trace(found: Json) -> Trace:
    return Trace(
        index=found["index"],
        phase=found["phase"],
        status=found["status"],
        answer=found.get("answer"),
        num_tokens=found["num_tokens"],
        min_conf=found.get("min_conf"),
        mean_conf=found.get("mean_conf"),
        tail_conf=found.get("tail_conf"),
        bottom_window_conf=found.get("bottom_window_conf"),
        certainty=found.get("certainty"),
        voted=found["voted"],
        text=found.get("text"),
    )
