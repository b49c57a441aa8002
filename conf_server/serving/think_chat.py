"""The traces of a chat that is thought about many times, made by vLLM's chat handler."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final

from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionResponse
from vllm.entrypoints.serve.engine.protocol import ErrorResponse
from vllm.exceptions import QueueOverflowError
from vllm.outputs import RequestOutput

from conf_server.backends.served import as_http
from conf_server.backends.served_rows import NamedRequests
from conf_server.backends.served_tokens import refused
from conf_server.engine.client.output_processor import SampleTrace
from conf_server.gathering.trace_maker import MadeTrace, NoRoomError, TraceOrder, Watch
from conf_server.serving.chat import ConfidenceServingChat
from conf_server.serving.deltas import request_tracers
from conf_server.serving.think_protocol import made_trace
from conf_server.serving.think_request import ThinkRequest

_PREFIX: Final = "chatcmpl-"
"""What vLLM's handler puts before a request's name."""

_AGAIN_S: Final = 0.1
"""Until a trace is ended once more, which the engine may not have known yet."""


@dataclass(frozen=True)
class _Whole:
    """A trace that has ended, on its way through vLLM's generators.

    Attributes:
        request: of the trace.
        output: all of its tokens, with their rows.
        args, kwargs: what vLLM's handler goes on with.
    """

    request: ThinkRequest
    output: RequestOutput
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class TraceChat(ConfidenceServingChat):
    """Our chat handler; it makes a `MadeTrace` of each `ThinkRequest`, and later an answer."""

    @classmethod
    def beside(cls, chat: ConfidenceServingChat) -> TraceChat:
        """A handler beside the one of /v1/chat/completions."""
        handler = cls.adopt(chat, chat.confidence_settings)
        handler.default_estimates = chat.default_estimates
        engine: Any = NamedRequests(chat.engine_client, _PREFIX)
        handler.engine_client = engine
        return handler

    async def render_chat_request(self, request: Any) -> Any:
        """The prompt, which is rendered once for all traces."""
        conversation, engine_input = request.rendered
        return conversation, [dict(engine_input)]

    async def chat_completion_full_generator(
        self,
        request: Any,
        result_generator: AsyncIterator[RequestOutput],
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        tracer, *_ = request_tracers(request, 1)
        confidence, told = request.resolved_confidence, 0
        text, token_ids, result = [], list[int](), None
        async with aclosing(result_generator) as results:  # type: ignore[type-var]
            async for result in results:
                tracer.annotate(result)
                (output,) = result.outputs
                text.append(output.text)
                token_ids += output.token_ids
                if request.watch is not None:
                    trace = tracer.traces[output.index]
                    request.watch(confidence.confidences(trace.rows(told, len(trace))))
                    told = len(trace)
        if result is None:
            raise RuntimeError("the engine has ended a trace without an output")
        (output,) = result.outputs
        self._raise_if_error(output.finish_reason, args[0])
        trace = tracer.traces[output.index]
        rows: Any = SampleTrace.of(trace)
        output.text, output.token_ids, output.logprobs = "".join(text), token_ids, rows
        whole = _Whole(request, result, args, kwargs)
        return made_trace(
            await self._text_of(whole),
            confidence,
            trace,
            len(token_ids),
            output.finish_reason,
            output.stop_reason,
            whole,
        )

    async def _text_of(self, whole: _Whole) -> str:
        """The text without what a parser takes out of it: reasoning, and calls of tools."""
        if whole.kwargs.get("parser") is None:
            return whole.output.outputs[0].text
        plain = whole.request.model_copy(update={"logprobs": False})
        made = await super(ConfidenceServingChat, self).chat_completion_full_generator(
            plain, _once(whole.output), *whole.args, **whole.kwargs
        )
        if isinstance(made, ErrorResponse):
            raise refused(made)
        return made.choices[0].message.content or ""

    async def answer(self, whole: _Whole) -> ChatCompletionResponse:
        """A trace as the answer of a chat."""
        kwargs = dict(whole.kwargs)
        if kwargs.get("parser") is not None:  # it is used up
            request, tokenizer = whole.request, self.renderer.get_tokenizer()
            kwargs["parser"] = self._make_parser(
                request, tokenizer, self._effective_chat_template_kwargs(request)
            )
        made = await super().chat_completion_full_generator(
            whole.request, _once(whole.output), *whole.args, **kwargs
        )
        if isinstance(made, ErrorResponse):
            raise refused(made)
        return made


class ServedTraces:
    """The traces of one request. It is a `TraceMaker`."""

    def __init__(
        self, chat: TraceChat, request: ThinkRequest, name: str, headers: Mapping[str, str]
    ) -> None:
        """
        Args:
            request: rendered, and its confidence resolved.
            name: of the request; those of its traces begin with it.
            headers: of the client's request.
        """
        self._chat = chat
        self._request = request
        self._name = name
        self._headers = headers
        self._running: set[str] = set()
        self._ending: set[asyncio.Task[None]] = set()

    async def make(self, order: TraceOrder, watch: Watch | None) -> MadeTrace:
        name = self._name_of(order.index)
        request = self._request.of_trace(name, order, watch)
        self._running.add(name)
        try:
            made: Any = await self._chat.create_chat_completion(request, as_http(self._headers))
        except QueueOverflowError as error:
            raise NoRoomError from error
        finally:
            self._running.discard(name)
        if isinstance(made, ErrorResponse):
            raise refused(made)
        assert isinstance(made, MadeTrace)
        return made

    def end(self, index: int) -> None:
        task = asyncio.create_task(self._end(self._name_of(index)))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def _end(self, name: str) -> None:
        while name in self._running:
            await self._chat.engine_client.abort(name)
            await asyncio.sleep(_AGAIN_S)

    def _name_of(self, index: int) -> str:
        return f"{self._name}-{index}"


async def _once(result: RequestOutput) -> AsyncGenerator[RequestOutput, None]:
    yield result
