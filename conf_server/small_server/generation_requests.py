"""POST /v1/chat/completions and /v1/completions: what the small server takes.

The fields are OpenAI's and vLLM's. Those that it has not are refused, unless their value says
nothing: an answer that silently ignores them would not be what was asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Final

from pydantic import BaseModel, ConfigDict, Field, model_validator

from conf_server.backends.base import Ask, Plain, Prompt
from conf_server.backends.served_bodies import CheckedBody
from conf_server.refusal import RefusalError
from conf_server.serving.confidence import (
    AnswerConfidenceOptions,
    Confidence,
    check_shown,
    check_stop_strings,
)
from conf_server.serving.fields import Priority, RequestId
from conf_server.serving.given_texts import Messages, Text, TokenIds, chat_of
from conf_server.settings import ConfidenceSettings

ELSEWHERE: Final = "not available with --backend transformers."
"""What is said of fields and flags that only vLLM has."""

_WITHOUT_EFFECT: Final = frozenset(
    {
        *("user", "store", "metadata", "service_tier", "safety_identifier", "session_id"),
        *("prompt_cache_key", "prompt_cache_retention", "parallel_tool_calls"),
    }
)
"""Fields that change no answer of this server's, whatever stands in them."""

_NOTHING: Final[Mapping[str, tuple[Any, ...]]] = {
    "add_special_tokens": (False,),
    "bad_words": ([],),
    "best_of": (1,),
    "echo": (False,),
    "functions": ([],),
    "include_reasoning": (True,),
    "length_penalty": (1, 1.0),
    "modalities": (["text"],),
    "response_format": ({"type": "text"},),
    "spaces_between_special_tokens": (True,),
    "suffix": ("",),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "use_beam_search": (False,),
}
"""Values with which a field that is missing here says nothing; null says nothing in any field."""

_SAMPLING: Final = (
    *("frequency_penalty", "ignore_eos", "include_stop_str_in_output", "logit_bias", "min_p"),
    *("min_tokens", "presence_penalty", "repetition_penalty", "seed", "skip_special_tokens"),
    *("stop", "stop_token_ids", "top_k", "top_p"),
)
"""Fields that the backend gets as they are, and checks."""


class StreamOptions(BaseModel):
    """What a stream holds beside the answer."""

    model_config = ConfigDict(extra="forbid")

    include_usage: bool | None = Field(default=False, description="A last chunk with the usage.")
    continuous_usage_stats: bool | None = Field(
        default=False, description="And the usage so far in every chunk."
    )


class GenerationRequest(CheckedBody):
    """What both requests share."""

    model_config = ConfigDict(extra="allow")

    shown_field: ClassVar[str]
    """Name of the field that says how many candidates the client wants to see."""

    model: str | None = Field(default=None, description="Served model.")
    n: Annotated[int, Field(ge=1)] | None = Field(default=1, description="Answers to a prompt.")
    max_tokens: int | None = Field(default=None, description="Most tokens of an answer.")
    temperature: Annotated[float, Field(ge=0)] | None = Field(
        default=None, description="0 for the likeliest tokens."
    )
    top_p: float | None = Field(default=None, description="Draw from so much probability.")
    top_k: int | None = Field(default=None, description="Draw from so many tokens.")
    min_p: float | None = Field(default=None, description="Least share of the likeliest's.")
    seed: int | None = Field(default=None, description="Makes answers reproducible.")
    stop: str | list[str] | None = Field(default=None, description="Strings that end an answer.")
    stop_token_ids: list[int] | None = Field(default=None, description="Tokens that end one.")
    include_stop_str_in_output: bool | None = Field(
        default=None, description="Show what has ended an answer."
    )
    ignore_eos: bool | None = Field(default=None, description="Go on after the end token.")
    min_tokens: int | None = Field(default=None, description="Least tokens of an answer.")
    presence_penalty: float | None = Field(default=None, description="As OpenAI defines it.")
    frequency_penalty: float | None = Field(default=None, description="As OpenAI defines it.")
    repetition_penalty: float | None = Field(default=None, description="As vLLM defines it.")
    logit_bias: dict[str, float] | None = Field(default=None, description="By token id.")
    skip_special_tokens: bool | None = Field(
        default=None, description="Leave special tokens out of the text."
    )
    stream: bool | None = Field(default=False, description="Server-sent events.")
    stream_options: StreamOptions | None = Field(
        default=None, description="What a stream holds beside the answer."
    )
    confidence: AnswerConfidenceOptions | None = Field(
        default=None,
        description="Confidence of the answer: token by token, as a summary, or both. Without it, "
        "an answer with log-probabilities carries what the server's own options say.",
    )
    return_tokens_as_token_ids: bool | None = Field(
        default=None, description="Show tokens as `token_id:N`."
    )
    return_token_ids: bool | None = Field(
        default=None, description="Answer the tokens' ids as well."
    )
    cache_salt: str | None = Field(default=None, description="There is no prefix cache here.")
    priority: Priority = 0
    request_id: RequestId

    @model_validator(mode="after")
    def _refuse_what_is_missing(self) -> GenerationRequest:
        for name, value in (self.model_extra or {}).items():
            # By type too: 1 and true are equal in Python.
            nothing = [(type(one), one) for one in _NOTHING.get(name, ())]
            if (
                value is not None
                and name not in _WITHOUT_EFFECT
                and (type(value), value) not in nothing
            ):
                raise RefusalError(name, ELSEWHERE)
        if self.stream_options is not None and not self.stream:
            raise RefusalError("stream_options", "it has a place beside `stream` only.")
        self.check()
        return self

    def check(self) -> None:
        """
        Raises:
            RefusalError: fields contradict each other.
        """

    @property
    def shown_candidates(self) -> int:
        """How many candidates of each token the client wants to see; -1: the whole vocabulary."""
        raise NotImplementedError

    @property
    def asks_for_logprobs(self) -> bool:
        raise NotImplementedError

    def resolved_confidence(
        self, settings: ConfidenceSettings, candidates: int, vocab_size: int
    ) -> Confidence | None:
        """What the answer carries beside its text; None for nothing.

        Raises:
            RefusalError: more candidates are asked for than the backend gives.
        """
        if self.confidence is None and not self.asks_for_logprobs:
            return None
        resolved = Confidence.resolve(self.confidence, settings, candidates, vocab_size)
        check_shown(self.shown_candidates, self.shown_field, candidates, vocab_size)
        check_stop_strings(resolved, self.stop)
        return resolved

    def ask(self, prompt: Prompt, temperature: float, max_tokens: int | None) -> Ask:
        """One of the request's prompts.

        Args:
            temperature, max_tokens: where the request says nothing.
        """
        given = {name: getattr(self, name) for name in _SAMPLING}
        longest = self.longest
        return Ask(
            prompt=prompt,
            n=1 if self.n is None else self.n,
            temperature=temperature if self.temperature is None else self.temperature,
            max_tokens=max_tokens if longest is None else longest,
            options={name: value for name, value in given.items() if value is not None},
        )

    @property
    def longest(self) -> int | None:
        """The most tokens that an answer may have, where the request says that."""
        return self.max_tokens


class ChatRequest(GenerationRequest):
    """POST /v1/chat/completions."""

    shown_field: ClassVar[str] = "top_logprobs"

    messages: Messages = Field(description="The conversation.")
    max_completion_tokens: int | None = Field(
        default=None, description="As `max_tokens`; it counts where both are given."
    )
    logprobs: bool | None = Field(default=False, description="Answer log-probabilities.")
    top_logprobs: int | None = Field(
        default=None, ge=-1, description="Candidates to show of each token (-1: all)."
    )
    chat_template: str | None = Field(
        default=None,
        description="Instead of the model's own; the server needs --trust-request-chat-template.",
    )
    chat_template_kwargs: dict[str, Any] | None = Field(
        default=None, description="Further arguments of the chat template."
    )
    add_generation_prompt: bool | None = Field(
        default=None, description="Whether the prompt ends where an answer begins."
    )
    continue_final_message: bool | None = Field(
        default=None, description="Go on with the last message."
    )

    def check(self) -> None:
        if not self.messages:
            raise RefusalError("messages", "it must not be empty.")
        if self.top_logprobs and not self.logprobs:
            raise RefusalError("top_logprobs", "it has a place beside `logprobs` only.")

    @property
    def shown_candidates(self) -> int:
        return self.top_logprobs or 0

    @property
    def asks_for_logprobs(self) -> bool:
        return bool(self.logprobs)

    @property
    def longest(self) -> int | None:
        given = self.max_completion_tokens
        return self.max_tokens if given is None else given

    def prompts(self) -> list[Prompt]:
        """The conversation."""
        names = (
            *("chat_template", "chat_template_kwargs"),
            *("add_generation_prompt", "continue_final_message"),
        )
        return [chat_of(self.messages, {name: getattr(self, name) for name in names})]


class CompletionRequest(GenerationRequest):
    """POST /v1/completions."""

    shown_field: ClassVar[str] = "logprobs"

    prompt: Text | TokenIds | list[Text] | list[TokenIds] = Field(
        description="A text or its token ids, or several of them."
    )
    max_tokens: int | None = Field(default=16, description="Most tokens of an answer.")
    logprobs: Annotated[int, Field(ge=-1)] | None = Field(
        default=None, description="Candidates to show of each token (-1: all)."
    )
    add_special_tokens: bool | None = Field(
        default=True, description="Add the tokenizer's special tokens (BOS) to a text."
    )

    def check(self) -> None:
        if not self.prompt:
            raise RefusalError("prompt", "it must not be empty.")

    @property
    def shown_candidates(self) -> int:
        return self.logprobs or 0

    @property
    def asks_for_logprobs(self) -> bool:
        return self.logprobs is not None

    def prompts(self) -> list[Prompt]:
        """The prompts, in their order."""
        given: list[Any] = [self.prompt] if isinstance(self.prompt, str) else list(self.prompt)
        if given and isinstance(given[0], int):
            given = [given]
        special = self.add_special_tokens is not False
        return [Plain(one if isinstance(one, str) else tuple(one), special) for one in given]
