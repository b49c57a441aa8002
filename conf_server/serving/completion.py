"""/v1/completions with confidence."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
from itertools import accumulate
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

from conf_server.engine.client.decoding import decoder
from conf_server.serving.answer_estimates import add_estimates, estimates_for, with_estimates
from conf_server.serving.confidence import by_token, finite, finite_all
from conf_server.serving.confident_handler import ConfidentHandler
from conf_server.serving.deltas import request_tracers, traced_prompt_outputs
from conf_server.serving.early_stops import early_stops_for
from conf_server.serving.requests import ConfidenceCompletionRequest
from conf_server.serving.splices import Splices
from conf_server.serving.tokens import ShownToken, likeliest_by_text, shown_tokens
from conf_server.serving.trace_delta import TraceDelta

_EMPTY: dict[str, Any] = {"text_offset": [], "token_logprobs": [], "tokens": [], "top_logprobs": []}


class ConfidenceServingCompletion(ConfidentHandler, OpenAIServingCompletion):
    """vLLM's completion handler, whose answers say how sure the model was."""

    async def create_completion(
        self, request: CompletionRequest, raw_request: Request | None = None
    ) -> AsyncGenerator[str, None] | CompletionResponse | ErrorResponse:
        request = ConfidenceCompletionRequest.from_stock(request)
        request.resolve_confidence(self.confidence_settings, self.model_config)
        request.note_headers(raw_request)
        made = await super().create_completion(request, raw_request)
        if isinstance(made, CompletionResponse):
            estimates = estimates_for(self.default_estimates, request, request.whole_tracers)
            await add_estimates(made.choices, estimates)
            if (early_stops := early_stops_for(request, request.whole_tracers)) is not None:
                early_stops.add(made.choices)
        return made

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
        chunks = super().completion_stream_generator(
            request, engine_inputs, result_generator, *args, **kwargs
        )
        if (estimates := estimates_for(self.default_estimates, request, tracers)) is not None:
            chunks = with_estimates(chunks, estimates)
        if (early_stops := early_stops_for(request, tracers)) is not None:
            chunks = early_stops.add_to_chunks(chunks)
        return chunks

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
        if isinstance(request, ConfidenceCompletionRequest):
            request.whole_tracers = tracers
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
        if mode in ("stats", "empty") or not len(token_ids):
            # Constructed unvalidated: a null log-probability (NaN) is not in OpenAI's schema.
            return CompletionLogProbs.model_construct(**_EMPTY | delta.extras())
        as_ids = return_as_token_id
        if as_ids is None:
            as_ids = self.return_tokens_as_token_ids
        shown = num_output_top_logprobs if mode == "per_token" else None
        if delta.splices is None:
            lists = _lists(delta, shown, tokenizer, as_ids, initial_text_offset)
        else:
            vocabulary = delta.splices.encoder.vocabulary(decoder(tokenizer), as_ids)
            pieces, end = delta.encoded(vocabulary).completion(
                shown, initial_text_offset, delta.columns(), delta.metrics()
            )
            lists = _placeholder(delta.splices, pieces, end)
        return CompletionLogProbs.model_construct(**lists | delta.extras())


def _placeholder(splices: Splices, pieces: Iterable[bytes], end: int) -> dict[str, Any]:
    """Lists that stand for the text of `pieces`.

    From the last token and its offset vLLM takes where the next chunk begins, which is `end`.
    """
    fields = {**_EMPTY, "text_offset": [end], "tokens": [""]}
    pattern = json.dumps({**fields, "*": 0}, separators=(",", ":"))[1:-1]
    return {**fields, splices.hold(pattern, pieces): 0}


def _lists(
    delta: TraceDelta,
    shown: int | None,
    tokenizer: TokenizerLike,
    as_token_ids: bool,
    offset: int,
) -> dict[str, list[Any]]:
    """OpenAI's four parallel lists of log-probabilities, and `confidence` as a fifth.

    Args:
        shown: how many candidates `top_logprobs` has beside the token; None leaves it empty.
    """
    tokens = shown_tokens(
        delta.rows(), shown or 0, decoder(tokenizer), delta.context(), as_token_ids
    )
    texts = [token.texts[0] for token in tokens]
    lists: dict[str, list[Any]] = {
        "text_offset": list(accumulate(map(len, texts[:-1]), initial=offset)),
        "token_logprobs": [finite(token.logprobs[0]) for token in tokens],
        "tokens": texts,
        "top_logprobs": [] if shown is None else list(map(_by_text, tokens)),
    }
    lists |= {name: finite_all(values) for name, values in delta.columns().items()}
    if metrics := by_token(delta.metrics()):
        lists["token_uncertainty"] = metrics
    return lists


def _by_text(token: ShownToken) -> dict[str, float | None]:
    likeliest = likeliest_by_text(token.texts, token.logprobs)
    return {text: finite(logprob) for text, logprob in likeliest.items()}
