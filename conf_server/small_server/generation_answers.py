"""What POST /v1/chat/completions and /v1/completions answer, as OpenAPI describes it."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from conf_server.serving.summaries import WithEarlyStop, WithSummary
from conf_server.serving.think_response import WithThinking


class Usage(BaseModel):
    """Tokens of prompts and answers."""

    prompt_tokens: int = Field(description="Of all prompts.")
    total_tokens: int = Field(description="Of prompts and answers.")
    completion_tokens: int = Field(description="Of all answers, end tokens included.")
    prompt_tokens_details: None = Field(default=None, description="There is no prefix cache.")


class Candidate(BaseModel):
    """A token that could stand at a position."""

    token: str = Field(description="Its text.")
    bytes: list[int] = Field(description="The text in UTF-8.")
    logprob: float | None = Field(description="Log-probability, in nats.")


class AnswerToken(Candidate):
    """A token of a chat's answer."""

    top_logprobs: list[Candidate] = Field(description="The likeliest, as many as were asked for.")
    confidence: float | None = Field(
        description="Minus the mean log-probability of the top k; higher is surer."
    )
    uncertainty: dict[str, float | None] | None = Field(
        default=None, description="The metrics asked for, of this token alone."
    )


class ChatLogProbs(WithSummary):
    """`logprobs` of a chat's choice."""

    content: list[AnswerToken] = Field(
        description="The tokens; none in the modes `stats` and `empty`."
    )


class Message(BaseModel):
    """An answer to a chat."""

    role: Literal["assistant"] = Field(description="Who speaks.")
    content: str = Field(description="The answer.")
    refusal: None = Field(default=None, description="There are none.")


class AnswerChoice(WithEarlyStop):
    """What both routes say of an answer."""

    index: int = Field(description="Its number.")
    finish_reason: str | None = Field(description="`stop` or `length`.")
    stop_reason: str | int | None = Field(
        description="The stop string or token that has ended it; null for the model's own."
    )
    token_ids: list[int] | None = Field(
        default=None, description="Where the request has `return_token_ids`."
    )


class ChatChoice(AnswerChoice):
    """A chat's choice."""

    message: Message
    logprobs: ChatLogProbs | None = Field(
        description="Where the request has `logprobs` or `confidence`."
    )


class CompletionLogProbs(WithSummary):
    """`logprobs` of a completion's choice: lists with one entry a token."""

    text_offset: list[int] = Field(description="Where each token begins in the text.")
    token_logprobs: list[float | None] = Field(description="In nats.")
    tokens: list[str] = Field(description="Their texts.")
    top_logprobs: list[dict[str, float | None]] = Field(description="The likeliest, by text.")
    confidence: list[float | None] | None = Field(
        default=None, description="Each token's: minus the mean log-probability of the top k."
    )
    token_uncertainty: list[dict[str, float | None]] | None = Field(
        default=None, description="The metrics asked for, of each token alone."
    )


class CompletionChoice(AnswerChoice):
    """A completion's choice."""

    text: str = Field(description="The answer.")
    logprobs: CompletionLogProbs | None = Field(
        description="Where the request has `logprobs` or `confidence`."
    )


class WholeAnswer(BaseModel):
    """What both routes say of all answers."""

    id: str = Field(description="The request's name, after the route's.")
    created: int = Field(description="Seconds since 1970.")
    model: str = Field(description="Served name.")
    usage: Usage


class ChatAnswer(WholeAnswer):
    """OpenAI's answer of a chat, with confidence beside the log-probabilities."""

    object: Literal["chat.completion"]
    choices: list[ChatChoice] = Field(description="One for each of `n`.")


class ThinkAnswer(WithThinking, ChatAnswer):
    """Of POST /v1/think/chat/completions."""


class CompletionAnswer(WholeAnswer):
    """OpenAI's answer of a completion, with confidence beside the log-probabilities."""

    object: Literal["text_completion"]
    choices: list[CompletionChoice] = Field(description="`n` for each prompt.")
