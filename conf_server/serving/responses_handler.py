"""/v1/responses with confidence."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Any

from fastapi import Request
from vllm import envs
from vllm.entrypoints.openai.responses.protocol import ResponsesRequest, ResponsesResponse
from vllm.entrypoints.openai.responses.serving import OpenAIServingResponses
from vllm.entrypoints.serve.engine.protocol import ErrorResponse

from conf_server.engine.client.decoding import decoder
from conf_server.refusal import RefusalError
from conf_server.serving.confident_handler import ConfidentHandler
from conf_server.serving.response_trace import ResponseTrace, with_confidence
from conf_server.serving.responses_request import ConfidenceResponsesRequest
from conf_server.serving.trace_delta import TraceDelta


class ConfidenceServingResponses(ConfidentHandler, OpenAIServingResponses):
    """vLLM's handler of responses, whose answers say how sure the model was."""

    async def create_responses(
        self, request: ResponsesRequest, raw_request: Request | None = None
    ) -> Any:
        if isinstance(request, ConfidenceResponsesRequest):
            obstacle = self._obstacle()
            if obstacle is None:
                request.resolve_confidence(self.confidence_settings, self.model_config)
            elif request.confidence is not None:
                raise RefusalError("confidence", obstacle)
            if request.confidence is not None and request.confidence.early_stop is not None:
                raise RefusalError("confidence.early_stop", "not available on this route.")
        return await super().create_responses(request, raw_request)

    async def responses_full_generator(
        self,
        request: ResponsesRequest,
        sampling_params: Any,
        result_generator: AsyncIterator[Any],
        context: Any,
        model_name: str,
        tokenizer: Any,
        *args: Any,
        **kwargs: Any,
    ) -> ErrorResponse | ResponsesResponse:
        """A whole answer, and also the last event of a stream, with nothing left to generate."""
        trace = self._trace(request, tokenizer)
        if trace is not None:
            result_generator = trace.follow(result_generator)
        made = await super().responses_full_generator(
            request,
            sampling_params,
            result_generator,
            context,
            model_name,
            tokenizer,
            *args,
            **kwargs,
        )
        if trace is not None and isinstance(made, ResponsesResponse):
            trace.complete(made)
        return made

    def responses_stream_generator(
        self,
        request: ResponsesRequest,
        sampling_params: Any,
        result_generator: AsyncIterator[Any],
        context: Any,
        model_name: str,
        tokenizer: Any,
        *args: Any,
        **kwargs: Any,
    ) -> AsyncGenerator[Any, None]:
        trace = self._trace(request, tokenizer)
        if trace is not None:
            result_generator = trace.follow(result_generator)
        events = super().responses_stream_generator(
            request,
            sampling_params,
            result_generator,
            context,
            model_name,
            tokenizer,
            *args,
            **kwargs,
        )
        return events if trace is None else with_confidence(events, trace)

    def _create_response_logprobs(
        self, token_ids: Sequence[int], logprobs: Any, *args: Any, **kwargs: Any
    ) -> list[Any]:
        if isinstance(logprobs, TraceDelta):
            return []  # The `ResponseTrace` puts them into the answer.
        entries: list[Any] = super()._create_response_logprobs(token_ids, logprobs, *args, **kwargs)
        return entries

    def _obstacle(self) -> str | None:
        """Why the answers of this server's /v1/responses cannot have confidence."""
        if self.use_harmony:
            return "not available on this route with gpt-oss models; /v1/chat/completions has it."
        if envs.VLLM_USE_EXPERIMENTAL_PARSER_CONTEXT:
            return "not available on this route with VLLM_USE_EXPERIMENTAL_PARSER_CONTEXT."
        return None

    def _trace(self, request: Any, tokenizer: Any) -> ResponseTrace | None:
        """The trace of a request's answer; None where it gets vLLM's own answer."""
        is_ours = isinstance(request, ConfidenceResponsesRequest)
        if not is_ours or request.resolved_confidence is None:
            return None
        if request.trace is None:
            as_ids = self.return_tokens_as_token_ids
            defaults = self.default_estimates
            request.trace = ResponseTrace(request, decoder(tokenizer), as_ids, defaults)
        trace: ResponseTrace = request.trace
        return trace
