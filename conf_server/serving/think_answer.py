"""A question that is thought about many times, as JSON: whole, and as a stream of events."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

from conf_server.concurrency import cancel_all
from conf_server.gathering.thinker import Listener, Thinker
from conf_server.gathering.trace_maker import MadeTrace, TraceMaker
from conf_server.gathering.trace_reader import Thoughts, TraceReader
from conf_server.refusal import RefusalError
from conf_server.serving.event_stream import event
from conf_server.serving.host import Host
from conf_server.serving.refusals import refusal_event
from conf_server.serving.think_protocol import TracesShown
from conf_server.serving.think_response import (
    AnswerGroup,
    HeldVote,
    PhaseTokens,
    Thinking,
    TraceSummary,
)
from conf_server.thinking.latex_process import LatexProcess, LatexProcessError
from conf_server.thinking.think_plan import Phase, ThinkPlan
from conf_server.thinking.traces import Trace
from conf_server.thinking.votes import VoteResult

logger = logging.getLogger("vllm.conf_server.think")

_CHUNK: Final = "chat.completion.chunk"
_UNTOLD: Final = ("metrics", "kv_transfer_params", "ec_transfer_params")
"""Fields of a chat's answer that would tell of one trace what is asked of all."""


async def ready_reader(plan: ThinkPlan, latex: LatexProcess) -> TraceReader:
    """Who reads the traces of a plan, before any of them is made.

    Args:
        latex: of this server; it runs from the first plan on that wants it.

    Raises:
        RefusalError: answers cannot be read or compared as the plan says, or not now.
    """
    if plan.answer.equal != "latex":
        return TraceReader(plan)
    reader = TraceReader(plan, latex)
    try:
        await latex.start()
    except LatexProcessError as error:
        status = HTTPStatus.SERVICE_UNAVAILABLE
        raise RefusalError(
            "think.answer.equal",
            f"the process that compares answers cannot be started: {error}.",
            status=status,
            kind="ServiceUnavailableError",
        ) from error
    return reader


@dataclass(frozen=True)
class ThinkJob:
    """A request that was checked, to be carried out once.

    Attributes:
        name: the answer's id.
        answer: a trace as the answer of a chat, a JSON object.
        shown: what is told of each trace.
        prompt_tokens: of the prompt, which all traces share.
        tells_usage: whether a stream ends with the usage.
    """

    name: str
    model: str
    created: int
    plan: ThinkPlan
    reader: TraceReader
    maker: TraceMaker
    answer: Callable[[MadeTrace], Awaitable[dict[str, Any]]]
    shown: TracesShown
    prompt_tokens: int
    tells_usage: bool = False

    async def thought(self, listener: Listener | None) -> tuple[Thoughts, dict[str, Any]]:
        """All traces, and the answer of a chat that the chosen one is."""
        thoughts = await Thinker(self.plan, self.reader, self.maker, listener).think()
        return thoughts, await self.answer(thoughts.chosen)

    async def whole(self) -> dict[str, Any]:
        """The body of the answer."""
        thoughts, body = await self.thought(None)
        for name in _UNTOLD:
            body.pop(name, None)
        return body | {
            "id": self.name,
            "usage": self.usage(thoughts),
            "think": self.thinking(thoughts),
        }

    def usage(self, thoughts: Thoughts) -> dict[str, int]:
        """Every token that was generated; the prompt counts once, as with `n`."""
        generated = sum(trace.num_tokens for trace in thoughts.traces)
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": generated,
            "total_tokens": self.prompt_tokens + generated,
        }

    def thinking(self, thoughts: Thoughts) -> dict[str, Any]:
        """The object `think` of the answer."""
        outcome, shown = thoughts.outcome, thoughts.shown
        traces = None
        if self.shown != "none":
            traces = [
                _summary(trace, trace.index in outcome.voted, thoughts.texts.get(trace.index))
                for trace in thoughts.traces
            ]
        members: dict[int, list[int]] = {}
        for trace in thoughts.traces:
            if trace.group is not None:
                members.setdefault(trace.group, []).append(trace.index)
        body = Thinking(
            answer=None if outcome.winner is None else shown[outcome.winner],
            stopped_by=thoughts.stopped_by,
            threshold=thoughts.threshold,
            groups=[
                AnswerGroup(answer=shown[group], votes=votes, weight=weight, traces=members[group])
                for group, votes, weight in outcome.shares
            ],
            votes={name: _vote(result, shown) for name, result in outcome.results.items()},
            usage=PhaseTokens(
                warmup_tokens=_tokens(thoughts.traces, "warmup"),
                final_tokens=_tokens(thoughts.traces, "final"),
            ),
            warnings=list(thoughts.warnings),
            **({} if traces is None else {"traces": traces}),
        )
        return body.model_dump(exclude_unset=True)


def _tokens(traces: Sequence[Trace], phase: Phase) -> int:
    return sum(trace.num_tokens for trace in traces if trace.phase == phase)


def _vote(result: VoteResult | None, shown: Any) -> HeldVote:
    if result is None:
        return HeldVote(answer=None, num_votes=0, confidence=None)
    return HeldVote(
        answer=shown[result.winner], num_votes=result.num_votes, confidence=result.confidence
    )


def _summary(trace: Trace, voted: bool, text: str | None) -> TraceSummary:
    scores = trace.scores
    return TraceSummary(
        index=trace.index,
        phase=trace.phase,
        status=trace.status,
        answer=trace.answer,
        num_tokens=trace.num_tokens,
        min_conf=None if scores is None else scores.min_conf,
        mean_conf=None if scores is None else scores.mean_conf,
        tail_conf=None if scores is None else scores.tail_conf,
        bottom_window_conf=None if scores is None else scores.bottom_window_conf,
        certainty=None if scores is None else scores.certainty,
        voted=voted,
        **({} if text is None else {"text": text}),
    )


class ThinkStream:
    """The events of one job. It is the job's `Listener`.

    Each is a chunk of OpenAI's stream without choices, so that a client that knows nothing of
    traces passes over it. Then come the chunks of the answer.
    """

    def __init__(self, job: ThinkJob, host: Host) -> None:
        self._job = job
        self._host = host
        self._queue: asyncio.Queue[str | None] = asyncio.Queue()

    def started(self, index: int, phase: Phase) -> None:
        self._tell({"type": "trace.started", "index": index, "phase": phase})

    def window(self, index: int, token: int, mean_conf: float) -> None:
        self._tell({"type": "trace.window", "index": index, "token": token, "mean_conf": mean_conf})

    def ended(self, trace: Trace) -> None:
        # Whether it votes is not known yet.
        told = _summary(trace, False, None).model_dump(exclude={"voted", "text"})
        self._tell({"type": "trace.ended", **told})

    def threshold(self, value: float) -> None:
        self._tell({"type": "threshold", "value": value})

    async def events(self) -> AsyncGenerator[str, None]:
        """Server-sent events. Closing the generator ends all traces."""
        worker = asyncio.create_task(self._work())
        try:
            while (told := await self._queue.get()) is not None:
                yield told
            yield "data: [DONE]\n\n"
        finally:
            await cancel_all((worker,))

    async def _work(self) -> None:
        try:
            thoughts, answer = await self._job.thought(self)
            self._tell({"type": "vote", **self._job.thinking(thoughts)})
            for choice in answer_chunks(answer):
                self._put([choice])
            if self._job.tells_usage:
                self._put([], usage=self._job.usage(thoughts))
        except RefusalError as error:
            self._queue.put_nowait(refusal_event(error))
        except Exception as error:
            logger.exception("Request %s has failed in its midst.", self._job.name)
            body = self._host.failure(error).model_dump()
            self._queue.put_nowait(event(body))
        finally:
            self._queue.put_nowait(None)

    def _tell(self, think: dict[str, Any]) -> None:
        self._put([], think=think)

    def _put(self, choices: list[dict[str, Any]], **more: Any) -> None:
        job = self._job
        chunk = {
            "id": job.name,
            "object": _CHUNK,
            "created": job.created,
            "model": job.model,
            "choices": choices,
            **more,
        }
        self._queue.put_nowait(event(chunk))


def answer_chunks(answer: dict[str, Any]) -> list[dict[str, Any]]:
    """The choices of the chunks that a whole answer is sent in: who speaks, then what is said."""
    (choice,) = answer["choices"]
    message = {name: value for name, value in choice["message"].items() if value not in (None, [])}
    opening = {"role": message.pop("role"), "content": ""}
    for number, call in enumerate(message.get("tool_calls", ())):
        call["index"] = number
    rest = {name: value for name, value in choice.items() if name not in ("index", "message")}
    first = {"index": 0, "delta": opening, "logprobs": None, "finish_reason": None}
    return [first, {"index": 0, "delta": message, **rest}]
