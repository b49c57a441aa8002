"""/v1/chat/completions with confidence."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from itertools import chain
from typing import Any

from fastapi import Request
from vllm.entrypoints.openai.chat_completion.protocol import (
    ChatCompletionLogProb,
    ChatCompletionLogProbs,
    ChatCompletionLogProbsContent,
    ChatCompletionRequest,
    ChatCompletionResponse,
)
from vllm.entrypoints.openai.chat_completion.serving import OpenAIServingChat
from vllm.entrypoints.serve.engine.protocol import ErrorResponse
from vllm.outputs import RequestOutput

from conf_server.engine.client.decoding import decoder
from conf_server.engine.client.ended_thinking import thinking_tokens
from conf_server.serving.answer_estimates import (
    add_estimates,
    estimates_for,
    with_estimates,
)
from conf_server.serving.confident_handler import ConfidentHandler
from conf_server.serving.deltas import DeltaTracer, request_tracers, traced_outputs
from conf_server.serving.early_stops import early_stops_for
from conf_server.serving.event_stream import event
from conf_server.serving.logprob_entries import LogprobEntries
from conf_server.serving.requests import ConfidenceChatCompletionRequest
from conf_server.serving.trace_delta import TraceDelta

_SUMMARIES = ("confidence_summary", "uncertainty")

_ENTRIES = LogprobEntries(ChatCompletionLogProbsContent, ChatCompletionLogProb)


class ConfidenceServingChat(ConfidentHandler, OpenAIServingChat):
    """vLLM's chat handler, whose answers say how sure the model was."""

    async def create_chat_completion(
        self, request: ChatCompletionRequest, raw_request: Request | None = None
    ) -> AsyncGenerator[str, None] | ChatCompletionResponse | ErrorResponse:
        request = ConfidenceChatCompletionRequest.from_stock(request)
        thinking = thinking_tokens(self.engine_client.vllm_config)
        request.resolve_confidence(self.confidence_settings, self.model_config, thinking)
        request.note_headers(raw_request)
        return await super().create_chat_completion(request, raw_request)

    def chat_completion_stream_generator(
        self,
        request: ChatCompletionRequest,
        result_generator: AsyncIterator[RequestOutput],
        *args: Any,
        **kwargs: Any,
    ) -> AsyncGenerator[str, None]:
        tracers = request_tracers(request, 1)
        results = _traced(tracers, result_generator)
        chunks = super().chat_completion_stream_generator(request, results, *args, **kwargs)
        if (estimates := estimates_for(self.default_estimates, request, tracers)) is not None:
            chunks = with_estimates(chunks, estimates)
        if (early_stops := early_stops_for(request, tracers)) is not None:
            chunks = early_stops.add_to_chunks(chunks)
        return summaries_in_deltas(chunks)

    async def chat_completion_full_generator(
        self,
        request: ChatCompletionRequest,
        result_generator: AsyncIterator[RequestOutput],
        *args: Any,
        **kwargs: Any,
    ) -> ErrorResponse | ChatCompletionResponse:
        tracers = request_tracers(request, 1)
        results = _traced(tracers, result_generator)
        made = await super().chat_completion_full_generator(request, results, *args, **kwargs)
        if isinstance(made, ChatCompletionResponse):
            estimates = estimates_for(self.default_estimates, request, tracers)
            await add_estimates(made.choices, estimates)
            if (early_stops := early_stops_for(request, tracers)) is not None:
                early_stops.add(made.choices)
            _add_summaries(made)
        return made

    def _create_chat_logprobs(
        self,
        token_ids: Sequence[int],
        top_logprobs: Any,
        tokenizer: Any,
        num_output_top_logprobs: int | None = None,
        logprob_token_ids: list[int] | None = None,
        return_as_token_id: bool | None = None,
    ) -> ChatCompletionLogProbs:
        if not isinstance(top_logprobs, TraceDelta):
            return super()._create_chat_logprobs(
                token_ids,
                top_logprobs,
                tokenizer,
                num_output_top_logprobs,
                logprob_token_ids,
                return_as_token_id,
            )
        delta, mode = top_logprobs, top_logprobs.confidence.mode
        if mode in ("stats", "empty") or not len(token_ids):
            return ChatCompletionLogProbs.model_construct(content=[], **delta.extras())
        shown = (num_output_top_logprobs or 0) if mode == "per_token" else 0
        as_ids = return_as_token_id
        if as_ids is None:
            as_ids = self.return_tokens_as_token_ids
        if delta.splices is None:
            content = _ENTRIES.of(delta, shown, decoder(tokenizer), as_ids)
            return ChatCompletionLogProbs(content=content, **delta.extras())
        vocabulary = delta.splices.encoder.vocabulary(decoder(tokenizer), as_ids)
        pieces = delta.encoded(vocabulary).chat(shown, delta.columns(), delta.metrics())
        name = delta.splices.hold('"content":[],"*":0', chain([b'"content":'], pieces))
        fields: dict[str, Any] = {"content": [], name: 0, **delta.extras()}
        return ChatCompletionLogProbs.model_construct(**fields)


def _traced(
    tracers: Sequence[DeltaTracer], results: AsyncIterator[RequestOutput]
) -> AsyncIterator[RequestOutput]:
    return traced_outputs(results, *tracers) if tracers else results


def _add_summaries(answer: ChatCompletionResponse) -> None:
    """Let the messages of a whole answer have what `summaries_in_deltas` gives those of a stream.

    So it is read in one place of both, and stays with clients that hand on the message alone.
    """
    for choice in answer.choices:
        for name in _SUMMARIES:
            if (value := getattr(choice.logprobs, name, None)) is not None:
                setattr(choice.message, name, value)


async def summaries_in_deltas(chunks: AsyncGenerator[str, None]) -> AsyncGenerator[str, None]:
    """Pass on `chunks`; the last one of each choice gets the answer's summary into its delta.

    `chat.completions.stream()` of the openai client puts an answer together from the deltas, with
    all their fields; of `logprobs` it keeps `content` and `refusal` only.
    """
    async with aclosing(chunks):
        async for chunk in chunks:
            # Quotes inside of a JSON string are escaped: this is the name of a field.
            if '"confidence_summary":' in chunk:
                chunk = _with_summaries(chunk)
            yield chunk


def _with_summaries(line: str) -> str:
    chunk = json.loads(line.removeprefix("data: "))
    for choice in chunk["choices"]:
        logprobs = choice.get("logprobs") or {}
        extras = {name: logprobs[name] for name in _SUMMARIES if name in logprobs}
        choice["delta"] |= extras
    return event(chunk)
