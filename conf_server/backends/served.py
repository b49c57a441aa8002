"""Answers through vLLM's own handlers, with their token statistics as arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from vllm.entrypoints.serve.engine.protocol import ErrorResponse

from conf_server.backends.tokenization import telling_length
from conf_server.serving.chat import ConfidenceServingChat
from conf_server.serving.completion import ConfidenceServingCompletion
from conf_server.serving.confidence import Confidence
from conf_server.serving.requests import (
    ConfidenceChatCompletionRequest,
    ConfidenceCompletionRequest,
)
from conf_server.stats.trace import TraceRows


@dataclass(frozen=True)
class GeneratedAnswer:
    """One answer.

    Attributes:
        text: what the client would see of it.
        finish_reason: as in OpenAI's API.
        rows: one row for each generated token, hidden reasoning included.
        scored: False for a text of a client's whose rows nobody wanted.
    """

    text: str
    finish_reason: str | None
    rows: TraceRows
    scored: bool = True


@dataclass(frozen=True)
class GeneratedAnswers:
    """The answers to one request and what they cost.

    Attributes:
        usage: vLLM's `UsageInfo`.
        masked: the log-probabilities are of what a grammar allowed.
    """

    answers: list[GeneratedAnswer]
    model: str
    usage: Any
    masked: bool


class RequestError(Exception):
    """vLLM's own refusal of a request that was made from the client's."""

    def __init__(self, response: ErrorResponse) -> None:
        super().__init__(response.error.message)
        self.response = response


class RowsInstead(Confidence):
    """A confidence whose answers carry their rows, for callers in this process."""

    def extras(self, rows: TraceRows) -> dict[str, Any]:
        return {"rows": rows}


class AnswerGenerator:
    """Asks the chat or the completion handler as a client would."""

    def __init__(
        self, chat: ConfidenceServingChat, completion: ConfidenceServingCompletion
    ) -> None:
        self._chat = chat
        self._completion = completion

    def validated(self, fields: dict[str, Any]) -> Any:
        """The chat or completion request that the fields make.

        Raises:
            RequestValidationError: they refuse one.
        """
        is_chat = "messages" in fields
        model = ConfidenceChatCompletionRequest if is_chat else ConfidenceCompletionRequest
        return _validated(model, fields)

    async def check(self, request: Any) -> None:
        """Render the prompt and check the sampling parameters, as vLLM will when it generates.

        Args:
            request: of `validated`.

        Raises:
            RequestError, VLLMValidationError: vLLM refuses it.
        """
        if isinstance(request, ConfidenceChatCompletionRequest):
            handler: Any = self._chat
            longest = request.max_completion_tokens
            rendered: Any = await handler.render_chat_request(request)
        else:
            handler, longest = self._completion, None
            rendered = await handler.render_completion_request(request)
        if isinstance(rendered, ErrorResponse):
            raise RequestError(rendered)
        (prompt,) = rendered[1] if handler is self._chat else rendered
        config = handler.engine_client.vllm_config
        room = config.model_config.max_model_len - handler._extract_prompt_len(prompt)
        longest = request.max_tokens if longest is None else longest
        most = room if longest is None else min(longest, room)
        params = request.to_sampling_params(most, handler.default_sampling_params)
        params.verify(
            config.model_config,
            config.speculative_config,
            config.structured_outputs_config,
            handler.renderer.tokenizer,
        )

    async def generate(
        self,
        fields: dict[str, Any],
        confidence: Confidence,
        raw_request: Request | None,
    ) -> GeneratedAnswers:
        """Answers to a request.

        Args:
            fields: of a chat request if there are `messages`, else of a completion request.
            confidence: what the engine shall compute; its mode is ignored. Rows name as many
                candidates as `top_logprobs` (completions: `logprobs`) says.

        Raises:
            RequestValidationError: vLLM's model refuses a field.
            RequestError: vLLM's handler refuses the request.
            TextTooLongError: the prompt does not fit the model.
        """
        with telling_length():
            return await self._generate(fields, confidence, raw_request)

    async def _generate(
        self, fields: dict[str, Any], confidence: Confidence, raw_request: Request | None
    ) -> GeneratedAnswers:
        shows = fields.get("top_logprobs") or fields.get("logprobs")
        mode = "per_token" if shows else "stats"
        rows_instead = RowsInstead(**{**vars(confidence), "mode": mode})
        if "messages" in fields:
            fields = fields | {"include_reasoning": True}
            request = _validated(ConfidenceChatCompletionRequest, fields)
            request.preset_confidence(rows_instead)
            answer: Any = await self._chat.create_chat_completion(request, _apart(raw_request))
            texts = _chat_texts
        else:
            request = _validated(ConfidenceCompletionRequest, fields)
            request.preset_confidence(rows_instead)
            answer = await self._completion.create_completion(request, _apart(raw_request))
            texts = _completion_texts
        if isinstance(answer, ErrorResponse):
            raise RequestError(answer)
        answers = [
            GeneratedAnswer(text, choice.finish_reason, choice.logprobs.rows)
            for text, choice in zip(texts(answer), answer.choices, strict=True)
        ]
        masked = request.resolved_confidence.masked
        return GeneratedAnswers(answers, answer.model, answer.usage, masked)


def _validated(model: Any, fields: dict[str, Any]) -> Any:
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        raise RequestValidationError(error.errors()) from error


def _chat_texts(answer: Any) -> list[str]:
    return [choice.message.content or "" for choice in answer.choices]


def _completion_texts(answer: Any) -> list[str]:
    return [choice.text for choice in answer.choices]


def _apart(raw_request: Request | None) -> Request | None:
    """The same connection and headers, but no request id: several requests come of one."""
    if raw_request is None:
        return None
    headers = [pair for pair in raw_request.scope["headers"] if pair[0] != b"x-request-id"]
    return Request({**raw_request.scope, "headers": headers, "state": {}})
