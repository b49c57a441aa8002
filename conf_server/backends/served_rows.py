"""vLLM's chat and completion handlers, whose answers carry rows in place of log-probabilities.

Requests of ours go through vLLM's own handlers, so that rendering, adapters, reasoning parsers
and logs are what a client of those routes gets.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any, Self

from pydantic import PrivateAttr
from vllm.entrypoints.openai.chat_completion.protocol import (
    ChatCompletionLogProbs,
    ChatCompletionRequest,
)
from vllm.entrypoints.openai.chat_completion.serving import OpenAIServingChat
from vllm.entrypoints.openai.completion.protocol import CompletionLogProbs, CompletionRequest
from vllm.entrypoints.openai.completion.serving import OpenAIServingCompletion
from vllm.outputs import CompletionOutput, RequestOutput
from vllm.sampling_params import SamplingParams

from conf_server.backends.served_bodies import CheckedBody
from conf_server.engine.adoption import adopt_copy
from conf_server.engine.client.output_processor import SampleTrace
from conf_server.engine.client.stock_logprobs import append_stock_rows
from conf_server.engine.marks import ask_for_rows
from conf_server.stats.forced import WantedRows
from conf_server.stats.trace import TokenTrace, TraceRows


class RowsRequest(CheckedBody):
    """What both requests share; it is mixed in before vLLM's class."""

    _wanted: WantedRows = PrivateAttr()
    _masked: bool = PrivateAttr(default=False)

    @classmethod
    def make(cls, fields: dict[str, Any], wanted: WantedRows) -> Self:
        """A request for rows.

        Raises:
            ValidationError: of pydantic's, naming a field that vLLM refuses.
            RefusalError: naming a field over which vLLM's validators stumble.
        """
        request = cls.model_validate(fields)
        request._wanted = wanted
        return request

    @property
    def wanted(self) -> WantedRows:
        """What a row has to hold."""
        return self._wanted

    @property
    def masked(self) -> bool:
        """Whether a grammar masks the logits; known once the engine was asked."""
        return self._masked

    def to_sampling_params(self, *args: Any, **kwargs: Any) -> SamplingParams:
        parent: Any = super()
        params: SamplingParams = parent.to_sampling_params(*args, **kwargs)
        self._masked = params.structured_outputs is not None
        top_k = self._wanted.top_k if self._wanted.statistics else 0
        ask_for_rows(params, self._wanted.width, top_k, at_end=True)
        return params


class RowsChatRequest(RowsRequest, ChatCompletionRequest):
    """A chat."""


class RowsCompletionRequest(RowsRequest, CompletionRequest):
    """A prompt without a chat template."""


class RowsChat(OpenAIServingChat):
    """vLLM's chat handler; `choices[i].logprobs.rows` are `TraceRows`."""

    @classmethod
    def adopt(cls, stock: OpenAIServingChat) -> RowsChat:
        """A handler beside the stock one."""
        handler = adopt_copy(cls, stock)
        engine: Any = NamedRequests(stock.engine_client, "chatcmpl-")
        handler.engine_client = engine
        return handler

    async def chat_completion_full_generator(
        self,
        request: ChatCompletionRequest,
        result_generator: AsyncIterator[RequestOutput],
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        assert isinstance(request, RowsRequest)
        results = _with_rows(result_generator, request.wanted.width)
        return await super().chat_completion_full_generator(request, results, *args, **kwargs)

    def _create_chat_logprobs(
        self, token_ids: Any, top_logprobs: Any, *args: Any, **kwargs: Any
    ) -> ChatCompletionLogProbs:
        return ChatCompletionLogProbs.model_construct(content=[], rows=top_logprobs.rows)


class RowsCompletion(OpenAIServingCompletion):
    """vLLM's completion handler; `choices[i].logprobs.rows` are `TraceRows`."""

    @classmethod
    def adopt(cls, stock: OpenAIServingCompletion) -> RowsCompletion:
        """A handler beside the stock one."""
        handler = adopt_copy(cls, stock)
        engine: Any = NamedRequests(stock.engine_client, "cmpl-")
        handler.engine_client = engine
        return handler

    def request_output_to_completion_response(
        self,
        final_res_batch: list[RequestOutput],
        request: CompletionRequest,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        assert isinstance(request, RowsRequest)
        for result in final_res_batch:
            _put_rows(result, request.wanted.width)
        return super().request_output_to_completion_response(
            final_res_batch, request, *args, **kwargs
        )

    def _create_completion_logprobs(
        self, token_ids: Any, top_logprobs: Any, *args: Any, **kwargs: Any
    ) -> CompletionLogProbs:
        return CompletionLogProbs.model_construct(rows=top_logprobs.rows)


class NamedRequests:
    """An engine's client that names requests as our caller does: in traces and logs they are
    parts of its request, and no chats of their own."""

    def __init__(self, engine: Any, prefix: str) -> None:
        self._engine = engine
        self._prefix = prefix

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def generate(self, prompt: Any, params: Any, request_id: str, **kwargs: Any) -> Any:
        return self._engine.generate(
            prompt, params, request_id.removeprefix(self._prefix), **kwargs
        )


class _Rows:
    """Stands where `CompletionOutput.logprobs` stood, on its way through vLLM's generators."""

    def __init__(self, rows: TraceRows) -> None:
        self.rows = rows


async def _with_rows(
    results: AsyncIterator[RequestOutput], width: int
) -> AsyncGenerator[RequestOutput, None]:
    """The results, whose outputs carry rows; closing this closes them and so aborts the request."""
    async with aclosing(results):  # type: ignore[type-var]
        async for result in results:
            _put_rows(result, width)
            yield result


def _put_rows(result: RequestOutput, width: int) -> None:
    for output in result.outputs:
        rows: Any = _Rows(_rows_of(output, width))
        output.logprobs = rows


def _rows_of(output: CompletionOutput, width: int) -> TraceRows:
    given: Any = output.logprobs
    if isinstance(given, SampleTrace):
        trace = given.trace
    else:  # a stock engine's, under the plugin
        trace = TokenTrace(width)
        append_stock_rows(trace, output.token_ids, given or ())
    # Rows that travel at the end are lost with an answer that was broken off: numbers of fewer
    # tokens than the answer has would pass for those of the whole.
    complete = len(trace) >= len(output.token_ids)
    return trace.rows(0, len(output.token_ids) if complete else 0)
