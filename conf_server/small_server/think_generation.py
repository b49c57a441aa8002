"""POST /v1/think/chat/completions of the small server."""

from __future__ import annotations

import json
import time
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from fastapi import Request
from pydantic import Field

from conf_server.backends.streaming import StreamingBackend
from conf_server.gathering.trace_maker import MadeTrace, TraceOrder, Watch
from conf_server.refusal import RefusalError
from conf_server.serving.confidence import no_early_stop, refuse_stop_reason
from conf_server.serving.fields import request_id
from conf_server.serving.host import Host
from conf_server.serving.think_answer import ThinkJob, ready_reader
from conf_server.serving.think_protocol import ThinkOptions, made_trace, traced_confidence
from conf_server.settings import ConfidenceSettings
from conf_server.small_server.answer_forms import AnswerForm
from conf_server.small_server.choices import Choice, Generation, new_choices, pieces
from conf_server.small_server.generation_handler import ServingGeneration
from conf_server.small_server.generation_requests import ChatRequest
from conf_server.thinking.latex_process import LatexProcess


class ThinkChatRequest(ChatRequest):
    """A chat that is answered many times, and voted on."""

    think: ThinkOptions = Field(
        default_factory=ThinkOptions,
        description="How often to think, which traces to end, and how they vote.",
    )

    def check(self) -> None:
        super().check()
        refuse_stop_reason(self.stop)
        if self.n not in (None, 1):
            raise RefusalError("n", "must be 1: `think.budget` says how many traces.", self.n)


class SmallTraces:
    """The traces of one request, one stream each. It is a `TraceMaker`."""

    def __init__(self, backend: StreamingBackend, generation: Generation) -> None:
        """
        Args:
            generation: of one prompt, to be answered once.
        """
        self._backend = backend
        self._generation = generation
        self._ended: set[int] = set()

    async def make(self, order: TraceOrder, watch: Watch | None) -> MadeTrace:
        generation = self._of_trace(order)
        confidence = generation.confidence
        assert confidence is not None
        (choice,) = new_choices(generation)
        async with aclosing(pieces(self._backend, generation)) as made:
            async for piece in made:
                choice.take(piece)
                if watch is not None:
                    watch(confidence.confidences(piece.rows))
                if order.index in self._ended and choice.finish_reason is None:
                    choice.finish_reason = "abort"
                    break
        assert choice.trace is not None
        return made_trace(
            choice.text,
            confidence,
            choice.trace,
            choice.num_tokens,
            choice.finish_reason,
            choice.stop_reason,
            (generation, choice),
        )

    def end(self, index: int) -> None:
        self._ended.add(index)

    def _of_trace(self, order: TraceOrder) -> Generation:
        generation = self._generation
        ((ask, token_ids),) = generation.asks
        options = dict(ask.options)
        if order.seed is not None:
            options["seed"] = order.seed
        assert generation.confidence is not None
        return replace(
            generation,
            asks=[(replace(ask, max_tokens=order.max_tokens, options=options), token_ids)],
            caller=generation.caller.at(str(order.index)),
            confidence=replace(generation.confidence, early_stop=order.early_stop),
        )


class SmallThink:
    """Checks requests, and makes jobs of them."""

    def __init__(
        self,
        host: Host,
        generation: ServingGeneration,
        backend: StreamingBackend,
        settings: ConfidenceSettings,
    ) -> None:
        self.host = host
        self._serving = generation
        self._backend = backend
        self._settings = settings
        self._latex = LatexProcess()

    async def job(self, request: ThinkChatRequest, raw_request: Request) -> ThinkJob:
        """What is to be done for a request.

        Raises:
            RefusalError: naming the field; no work has been done yet.
        """
        request.confidence = traced_confidence(
            request.think, request.confidence, self._settings, bool(request.logprobs)
        )
        form = await self._serving.form(request, raw_request)
        confidence = form.generation.confidence
        assert confidence is not None
        ((ask, token_ids),) = form.generation.asks
        room = self._backend.limits().max_len - len(token_ids)
        longest = room if ask.max_tokens is None else min(room, ask.max_tokens)
        plan = request.think.plan(
            self._settings,
            confidence.window,
            longest,
            ask.options.get("seed"),
            no_early_stop(confidence.mode, self._settings),
        )

        reader = await ready_reader(plan, self._latex)
        self._serving.count(form)

        async def answer(made: MadeTrace) -> dict[str, Any]:
            return await self._answer(form, made)

        options = request.stream_options
        return ThinkJob(
            name=f"think-{request_id(raw_request, request.request_id)}",
            model=form.model,
            created=int(time.time()),
            plan=plan,
            reader=reader,
            maker=SmallTraces(self._backend, form.generation),
            answer=answer,
            shown=request.think.traces,
            prompt_tokens=len(token_ids),
            tells_usage=bool(options and options.include_usage),
        )

    async def _answer(self, form: AnswerForm, made: MadeTrace) -> dict[str, Any]:
        generation: Generation
        choice: Choice
        generation, choice = made.source
        body: dict[str, Any] = json.loads(
            await self._serving.whole(replace(form, generation=generation), [choice])
        )
        return body
