"""/v1/completions with confidence."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Any

from fastapi import Request
from vllm.entrypoints.openai.completion.protocol import (
    CompletionLogProbs,
    CompletionRequest,
    CompletionResponse,
)
from vllm.entrypoints.openai.completion.serving import OpenAIServingCompletion
from vllm.entrypoints.serve.engine.protocol import ErrorResponse
from vllm.outputs import RequestOutput
from vllm.tokenizers import TokenizerLike

from conf_server.engine.adoption import adopt_copy
from conf_server.serving.deltas import TraceDelta, request_tracers, traced_prompt_outputs
from conf_server.serving.requests import ConfidenceCompletionRequest
from conf_server.serving.tokens import ShownToken, openai_logprob, shown_tokens
from conf_server.settings import ConfidenceSettings

_EMPTY: dict[str, Any] = {"text_offset": [], "token_logprobs": [], "tokens": [], "top_logprobs": []}


class ConfidenceServingCompletion(OpenAIServingCompletion):
    """vLLM's completion handler, whose answers say how sure the model was."""

    confidence_settings: ConfidenceSettings

    @classmethod
    def adopt(
        cls, stock: OpenAIServingCompletion, settings: ConfidenceSettings
    ) -> ConfidenceServingCompletion:
        """Take over a handler that vLLM has built; see `ConfidenceServingChat.adopt`."""
        handler = adopt_copy(cls, stock)
        handler.confidence_settings = settings
        return handler

    async def create_completion(
        self, request: CompletionRequest, raw_request: Request | None = None
    ) -> AsyncGenerator[str, None] | CompletionResponse | ErrorResponse:
        request = ConfidenceCompletionRequest.from_stock(request)
        request.resolve_confidence(self.confidence_settings, self.model_config)
        return await super().create_completion(request, raw_request)

    def completion_stream_generator(
        self,
        request: CompletionRequest,
        engine_inputs: list[Any],
        result_generator: AsyncIterator[tuple[int, RequestOutput]],
        *args: Any,
        **kwargs: Any,
    ) -> AsyncGenerator[str, None]:
        if tracers := request_tracers(request, len(engine_inputs)):
            result_generator = traced_prompt_outputs(result_generator, tracers)
        return super().completion_stream_generator(
            request, engine_inputs, result_generator, *args, **kwargs
        )

    def request_output_to_completion_response(
        self,
        final_res_batch: list[RequestOutput],
        request: CompletionRequest,
        *args: Any,
        **kwargs: Any,
    ) -> CompletionResponse:
        tracers = request_tracers(request, len(final_res_batch))
        for tracer, result in zip(tracers, final_res_batch, strict=False):
            tracer.annotate(result)
        return super().request_output_to_completion_response(
            final_res_batch, request, *args, **kwargs
        )

    def _create_completion_logprobs(
        self,
        token_ids: Sequence[int],
        top_logprobs: Any,
        num_output_top_logprobs: int,
        tokenizer: Any,
        logprob_token_ids: list[int] | None = None,
        initial_text_offset: int = 0,
        return_as_token_id: bool | None = None,
    ) -> CompletionLogProbs:
        if not isinstance(top_logprobs, TraceDelta):
            return super()._create_completion_logprobs(
                token_ids,
                top_logprobs,
                num_output_top_logprobs,
                tokenizer,
                logprob_token_ids,
                initial_text_offset,
                return_as_token_id,
            )
        delta, mode = top_logprobs, top_logprobs.confidence.mode
        lists: dict[str, list[Any]] = {}
        if mode in ("per_token", "summary") and len(token_ids):
            shown = num_output_top_logprobs if mode == "per_token" else 0
            as_ids = return_as_token_id
            if as_ids is None:
                as_ids = self.return_tokens_as_token_ids
            lists = _lists(delta, shown, tokenizer, as_ids, initial_text_offset)
            if mode == "summary":
                lists["top_logprobs"] = []
        # Constructed unvalidated: a null log-probability (NaN) is not in OpenAI's schema.
        return CompletionLogProbs.model_construct(**(_EMPTY | lists | delta.extras()))


def _by_text(token: ShownToken) -> dict[str, float | None]:
    """Log-probabilities of a token and its candidates, by text.

    Of several tokens with one text, the likeliest counts.
    """
    likeliest: dict[str, float] = {}
    for text, logprob in zip(token.texts, token.logprobs, strict=True):
        if text not in likeliest or logprob > likeliest[text]:
            likeliest[text] = logprob
    return {text: openai_logprob(logprob) for text, logprob in likeliest.items()}


def _lists(
    delta: TraceDelta, shown: int, tokenizer: TokenizerLike, as_token_ids: bool, offset: int
) -> dict[str, list[Any]]:
    """OpenAI's four parallel lists of log-probabilities, and `confidence` as a fifth."""
    rows = delta.rows()
    tokens = shown_tokens(rows, shown, tokenizer, delta.context(), as_token_ids)
    texts = [token.texts[0] for token in tokens]
    offsets = [offset]
    for text in texts[:-1]:
        offsets.append(offsets[-1] + len(text))
    lists: dict[str, list[Any]] = {
        "text_offset": offsets,
        "token_logprobs": [openai_logprob(token.logprobs[0]) for token in tokens],
        "tokens": texts,
        "top_logprobs": [_by_text(token) for token in tokens],
        "confidence": delta.confidence.token_confidences(rows),
    }
    if delta.confidence.metrics:
        lists["token_uncertainty"] = delta.confidence.token_uncertainties(rows)
    return lists
