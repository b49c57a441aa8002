"""What the handlers that force texts have in common."""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus

from fastapi import Request
from vllm.entrypoints.generate.base.serving import GenerateBaseServing
from vllm.entrypoints.openai.chat_completion.serving import OpenAIServingChat
from vllm.entrypoints.serve.engine.protocol import ErrorResponse, PromptTokenUsageInfo

from conf_server.backends.base import Backend, Caller, ForcingJob
from conf_server.serving.hidden_states_protocol import HiddenStatesRequest
from conf_server.serving.score_protocol import ScoreRequest, ScoreUsage
from conf_server.settings import ConfidenceSettings


class ServingForced(GenerateBaseServing):
    """A handler of requests that let the model read texts it did not write."""

    def __init__(
        self, chat: OpenAIServingChat, backend: Backend, settings: ConfidenceSettings
    ) -> None:
        """Share engine, models and renderer with the chat handler."""
        super().__init__(
            engine_client=chat.engine_client,
            models=chat.models,  # type: ignore[arg-type]  # annotated wider by vLLM
            request_logger=chat.request_logger,
        )
        self.settings = settings
        self._backend = backend
        self._tells_cached = chat.enable_prompt_tokens_details

    async def _obstacle(
        self, request: ScoreRequest | HiddenStatesRequest, missing: str | None
    ) -> ErrorResponse | None:
        """The error that answers a request for another model, or 501 for what is `missing`."""
        error: ErrorResponse | None = await self._check_model(request)  # type: ignore[arg-type]
        if error is None and missing is not None:
            error = self._missing(missing)
        return error

    def _missing(self, reason: str) -> ErrorResponse:
        """The error that answers a request for what this server cannot give."""
        error: ErrorResponse = self.create_error_response(
            reason, "NotImplementedError", HTTPStatus.NOT_IMPLEMENTED
        )
        return error

    def _caller(
        self,
        kind: str,
        request: ScoreRequest | HiddenStatesRequest,
        raw_request: Request | None,
    ) -> Caller:
        """Who asks; the answer's id begins with `kind`."""
        answer_id = f"{kind}-{self._base_request_id(raw_request, request.request_id)}"
        headers = {} if raw_request is None else dict(raw_request.headers)
        return Caller(answer_id, request.model, request.cache_salt, request.priority, headers)

    def _usage(self, jobs: Sequence[ForcingJob], num_cached: int) -> ScoreUsage:
        """The tokens of all texts. How many came from the prefix cache is said only with vLLM's
        --enable-prompt-tokens-details: it tells what other clients have sent.
        """
        num_tokens = sum(len(job.text.token_ids) for job in jobs)
        details = PromptTokenUsageInfo(cached_tokens=num_cached) if self._tells_cached else None
        return ScoreUsage(
            prompt_tokens=num_tokens, total_tokens=num_tokens, prompt_tokens_details=details
        )
