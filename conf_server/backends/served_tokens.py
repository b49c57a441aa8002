"""The served model as a `TokenModel`: rendering, teacher forcing and labels on its engine."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from pydantic import ValidationError
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.chat_completion.serving import OpenAIServingChat
from vllm.entrypoints.serve.engine.protocol import ErrorResponse
from vllm.exceptions import VLLMValidationError

from conf_server.backends.base import Caller, Chat
from conf_server.backends.end_tokens import EndTokens, end_tokens
from conf_server.engine.client.state_forcing import force_states
from conf_server.engine.client.teacher_forcing import force_labels, teacher_force
from conf_server.refusal import RefusalError, TooLongError
from conf_server.stats.forced import (
    ForcedLabels,
    ForcedRows,
    ForcedStates,
    ForcedText,
    WantedRows,
    WantedStates,
)


def refused(response: ErrorResponse, path: str = "") -> RefusalError:
    """vLLM's own refusal, as ours; the field that it names gets `path` before it."""
    error = response.error
    # vLLM's message names the field itself, if it does.
    refusal = RefusalError(None, error.message, status=error.code, kind=error.type)
    refusal.field = None if error.param is None else f"{path}{error.param}"
    return refusal


def invalid(error: ValidationError, path: str = "") -> RefusalError:
    """What pydantic says of a request of vLLM's, as our refusal of its first wrong field."""
    first = error.errors()[0]
    # Behind the field stand, for unions, the names of the types that were tried.
    name, *rest = first["loc"] or ("",)
    field = ".".join([f"{path}{name}", *(str(part) for part in rest if isinstance(part, int))])
    return RefusalError(field, f"{first['msg']}.")


@contextmanager
def telling_length() -> Iterator[None]:
    """Give what vLLM's renderers say of a prompt that does not fit a type of its own.

    Raises:
        TooLongError: with vLLM's message.
    """
    try:
        yield
    except VLLMValidationError as error:
        full = error.parameter == "max_tokens" and error.value == 0  # no room for an answer
        if error.parameter not in ("input_text", "input_tokens") and not full:
            raise
        too_long = TooLongError(None, str(error.args[0]), error.value)
        too_long.field = error.parameter
        raise too_long from error


def chat_fields(chat: Chat) -> dict[str, Any]:
    """The fields of vLLM's chat request that say what its prompt is."""
    fields: dict[str, Any] = {
        "messages": [dict(message) for message in chat.messages],
        "add_generation_prompt": chat.add_generation_prompt and not chat.continue_final_message,
        "continue_final_message": chat.continue_final_message,
    }
    if chat.template is not None:
        fields["chat_template"] = chat.template
    if chat.template_kwargs is not None:
        fields["chat_template_kwargs"] = dict(chat.template_kwargs)
    return fields


class ServedTokens:
    """What `TextForcing` asks of the engine that serves."""

    def __init__(self, chat: OpenAIServingChat, statistics: bool) -> None:
        """
        Args:
            chat: any chat handler of this server: engine, models and renderer are shared.
            statistics: whether the workers make rows and can name tokens.
        """
        self._engine = chat.engine_client
        self._models = chat.models
        self._renderer = chat.online_renderer
        self._trace_headers = chat._get_trace_headers
        self._statistics = statistics
        # A tokenizer of its own: see `TokenModel.tokenizer`.
        self.tokenizer = copy.deepcopy(chat.renderer.tokenizer)
        self.max_len = chat.model_config.max_model_len
        # vLLM's own bound for prompts. Without a tokenizer no text is taken at all.
        self.max_chars = self.max_len * getattr(self.tokenizer, "max_chars_per_token", 0)
        self.vocab_size = chat.model_config.get_vocab_size()
        self.block_size = self._engine.vllm_config.cache_config.block_size or 1
        known = chat.model_config.try_get_generation_config().get("eos_token_id")
        self._ends = EndTokens(end_tokens(self.tokenizer, known), self.render)

    @property
    def has_chat_template(self) -> bool:
        """Whether a question can be put to the model as a user's message."""
        own = getattr(self.tokenizer, "chat_template", None)
        return bool(self._renderer.chat_template or own)

    async def render(self, chat: Chat, path: str) -> list[int]:
        try:
            request = ChatCompletionRequest.model_validate(chat_fields(chat))
        except ValidationError as error:
            raise invalid(error, path) from error
        with telling_length():
            rendered = await self._renderer.render_chat(request)
        if isinstance(rendered, ErrorResponse):
            raise refused(rendered)
        _, (engine_input,) = rendered
        if engine_input["type"] != "token":
            raise RefusalError(f"{path}messages", "only text can be scored.")
        return list(engine_input["prompt_token_ids"])

    async def end_token(self, context: Chat | None, path: str) -> int:
        return await self._ends.after(context, path)

    async def force(self, text: ForcedText, wanted: WantedRows, caller: Caller) -> ForcedRows:
        options = await self._options(caller)
        return await teacher_force(self._engine, text, wanted, caller.request_id, **options)

    async def force_states(
        self, text: ForcedText, wanted: WantedStates, caller: Caller
    ) -> ForcedStates:
        options = await self._options(caller)
        return await force_states(self._engine, text, wanted, caller.request_id, **options)

    async def force_labels(
        self, context: list[int], labels: Sequence[int], caller: Caller
    ) -> ForcedLabels:
        options = await self._options(caller)
        return await force_labels(
            self._engine, context, labels, self._statistics, caller.request_id, **options
        )

    async def _options(self, caller: Caller) -> dict[str, Any]:
        return {
            "lora_request": self._models.lora_requests.get(caller.model or ""),
            "cache_salt": caller.cache_salt,
            "priority": caller.priority,
            "trace_headers": await self._trace_headers(caller.headers),
        }
