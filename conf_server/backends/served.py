"""The engine of this server as a `Backend`."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final

from pydantic import ValidationError
from starlette.requests import Request
from vllm.entrypoints.openai.chat_completion.serving import OpenAIServingChat
from vllm.entrypoints.openai.completion.serving import OpenAIServingCompletion
from vllm.entrypoints.serve.engine.protocol import ErrorResponse
from vllm.sampling_params import SamplingParams

from conf_server.backends.base import (
    Answer,
    Answers,
    Ask,
    Caller,
    Chat,
    Limits,
    Rendered,
    Turn,
)
from conf_server.backends.forcing import LABELS_IN_FLIGHT, ReadsTexts, TextForcing
from conf_server.backends.served_rows import (
    RowsChat,
    RowsChatRequest,
    RowsCompletion,
    RowsCompletionRequest,
)
from conf_server.backends.served_tokens import (
    ServedTokens,
    chat_fields,
    invalid,
    refused,
    telling_length,
)
from conf_server.engine.client.decoding import decode_rows
from conf_server.engine.lora import scoring_obstacle
from conf_server.engine.states_support import NOT_ENABLED, StatesSupport
from conf_server.settings import ConfidenceSettings
from conf_server.stats.forced import (
    WantedRows,
)

QUEUE_SHARE: Final = 4
"""Of vLLM's --max-num-queued-reqs label questions take one part in so many."""

STEP_SHARE: Final = 2
"""Of --max-num-batched-tokens, what the engine computes in a step, likewise: a request that comes
meanwhile has its first token after a step or two."""


class ServedBackend(ReadsTexts):
    """Asks the engine that serves, through vLLM's own handlers where a client could."""

    def __init__(
        self,
        chat: OpenAIServingChat,
        completion: OpenAIServingCompletion,
        statistics: str | None,
        states: StatesSupport = NOT_ENABLED,
        max_forced_tokens: int = ConfidenceSettings.max_forced_tokens,
    ) -> None:
        """
        Args:
            chat, completion: this server's handlers; engine, models and renderers are shared.
            statistics: why the engine has no exact token statistics; None where it has.
            states: what its workers give of hidden states.
            max_forced_tokens: that all texts of one request may have together.
        """
        self._states = states
        self._chat = RowsChat.adopt(chat)
        self._completion = RowsCompletion.adopt(completion)
        self._engine = chat.engine_client
        self._models = chat.models
        self._model_config = chat.model_config
        self._statistics = statistics
        self._tokens = ServedTokens(chat, statistics is None)
        scheduler = self._engine.vllm_config.scheduler_config
        queued = scheduler.max_num_queued_reqs
        share = LABELS_IN_FLIGHT if queued is None else max(1, queued // QUEUE_SHARE)
        self._forcing = TextForcing(
            self._tokens,
            min(LABELS_IN_FLIGHT, share),
            max(1, scheduler.max_num_batched_tokens // STEP_SHARE),
            max_forced_tokens,
        )
        # For the event loop; the forcing thread has one of its own.
        self._tokenizer: Any = chat.renderer.tokenizer

    def limits(self) -> Limits:
        return Limits(
            max_len=self._model_config.max_model_len,
            vocab_size=self._model_config.get_vocab_size(),
            candidates=max_candidates(self._model_config),
            has_chat_template=self._tokens.has_chat_template,
            statistics=self._statistics,
            forcing=self._forcing_obstacle(),
            states=self._states_obstacle(),
            num_layers=self._states.num_layers,
            hidden_size=self._states.hidden_size,
            num_heads=self._states.num_heads,
            attention=self._states.attention,
            adapters=frozenset(self._models.lora_requests),
        )

    def _forcing_obstacle(self) -> str | None:
        if self._tokenizer is None:
            return "scoring needs a tokenizer: start without --skip-tokenizer-init"
        return scoring_obstacle(self._engine.vllm_config, self._models.lora_requests.values())

    def _states_obstacle(self) -> str | None:
        if self._states.obstacle is None and self._tokenizer is None:
            return "hidden states need a tokenizer: start without --skip-tokenizer-init"
        return self._states.obstacle

    # Answers.

    async def check(self, ask: Ask, caller: Caller) -> Rendered:
        request = self._request(ask, WantedRows(1, 0, statistics=False), caller)
        with telling_length():
            if isinstance(request, RowsChatRequest):
                handler: Any = self._chat
                longest = request.max_completion_tokens
                rendered: Any = await handler.online_renderer.render_chat(request)
            else:
                handler, longest = self._completion, None
                rendered = await handler.online_renderer.render_completion(request)
        if isinstance(rendered, ErrorResponse):
            raise refused(rendered)
        conversation, (prompt,) = rendered if handler is self._chat else ((), rendered)
        longest = request.max_tokens if longest is None else longest
        room = self._model_config.max_model_len - handler._extract_prompt_len(prompt)
        most = room if longest is None else min(longest, room)
        verify_params(handler, request.to_sampling_params(most, handler.default_sampling_params))
        ids = list(prompt["prompt_token_ids"]) if prompt["type"] == "token" else None
        return Rendered(ids, _turns(conversation, ask))

    async def generate(self, ask: Ask, wanted: WantedRows, caller: Caller) -> Answers:
        request = self._request(ask, wanted, caller)
        http = as_http(caller.headers)
        with telling_length():
            if isinstance(request, RowsChatRequest):
                made: Any = await self._chat.create_chat_completion(request, http)
            else:
                made = await self._completion.create_completion(request, http)
        if isinstance(made, ErrorResponse):
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                # vLLM's handlers answer a cancellation, and nobody reads that answer.
                raise asyncio.CancelledError
            raise refused(made)
        is_chat = isinstance(request, RowsChatRequest)
        return Answers(
            answers=tuple(
                Answer(
                    (choice.message.content or "") if is_chat else choice.text,
                    choice.finish_reason,
                    choice.logprobs.rows,
                )
                for choice in made.choices
            ),
            model=made.model,
            prompt_tokens=made.usage.prompt_tokens,
            completion_tokens=made.usage.completion_tokens or 0,
            masked=request.masked,
        )

    def _request(
        self, ask: Ask, wanted: WantedRows, caller: Caller
    ) -> RowsChatRequest | RowsCompletionRequest:
        fields = {
            **ask.options,
            "n": ask.n,
            "temperature": ask.temperature,
            "model": caller.model,
            "priority": caller.priority,
            "request_id": caller.request_id,
        }
        if ask.max_tokens is not None:
            fields["max_tokens"] = ask.max_tokens
        if caller.cache_salt is not None:
            fields["cache_salt"] = caller.cache_salt
        try:
            if isinstance(ask.prompt, Chat):
                # Without its reasoning a parsed answer would have no rows for it.
                fields |= {**chat_fields(ask.prompt), "logprobs": True, "include_reasoning": True}
                return RowsChatRequest.make(fields, wanted)
            content = ask.prompt.content
            fields["prompt"] = content if isinstance(content, str) else list(content)
            fields["add_special_tokens"] = ask.prompt.add_special_tokens
            return RowsCompletionRequest.make({**fields, "logprobs": 0}, wanted)
        except ValidationError as error:
            raise invalid(error) from error

    # Tokens and their texts.

    def decode(self, rows: Sequence[Sequence[int]], context: Sequence[int] = ()) -> list[list[str]]:
        return decode_rows(self._tokenizer, rows, context)

    def text_of(self, token_ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(token_ids), skip_special_tokens=True))

    def is_special(self, token_id: int) -> bool:
        return token_id in self._tokenizer.all_special_ids


def max_candidates(model_config: Any) -> int:
    """Most candidates a request may ask the engine for (`--max-logprobs`)."""
    vocabulary: int = model_config.get_vocab_size()
    limit: int = model_config.max_logprobs
    return vocabulary if limit == -1 else min(limit, vocabulary)


def verify_params(handler: Any, params: SamplingParams) -> None:
    """Refuse what vLLM's engine would refuse of a handler's request.

    Raises:
        ValueError: what vLLM raises.
    """
    config = handler.engine_client.vllm_config
    params.verify(
        config.model_config,
        config.speculative_config,
        config.structured_outputs_config,
        handler.renderer.tokenizer,
    )


def as_http(headers: Mapping[str, str]) -> Request:
    """A caller as vLLM's handlers know callers: they read headers, and note ids in the state.

    The id in the client's headers is left out: several requests come of one, each with its own.
    """
    encoded = [
        (name.encode("latin-1"), text.encode("latin-1"))
        for name, text in headers.items()
        if name != "x-request-id"
    ]
    return Request({"type": "http", "headers": encoded, "state": {}})


def _turns(conversation: Sequence[Any], ask: Ask) -> tuple[Turn, ...]:
    """The conversation as the renderer has parsed it.

    gpt-oss' renderer gives objects of its own: there the client's messages are read.
    """
    if not isinstance(ask.prompt, Chat):
        return ()
    parsed = all(isinstance(message, dict) for message in conversation)
    messages: Sequence[Mapping[str, Any]] = conversation if parsed else ask.prompt.messages
    return tuple(
        Turn(str(message.get("role")), _joined(message.get("content"))) for message in messages
    )


def _joined(content: Any) -> str:
    """Text of a message. Parts are lines, as vLLM joins them where it joins them itself."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else ()
    texts = (part.get("text") if isinstance(part, dict) else part for part in parts)
    return "\n".join(text for text in texts if isinstance(text, str))
