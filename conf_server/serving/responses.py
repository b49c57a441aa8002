"""What `confidence` adds to the answers of vLLM's routes, as OpenAPI describes it.

vLLM's handlers make these answers of vLLM's own models, which take further fields; the models
here are for the schema only.
"""

from __future__ import annotations

from typing import Any, Final

from pydantic import ConfigDict, Field
from vllm.entrypoints.openai.chat_completion.protocol import (
    ChatCompletionLogProbs,
    ChatCompletionLogProbsContent,
    ChatCompletionResponse,
    ChatCompletionResponseChoice,
    ChatMessage,
)
from vllm.entrypoints.openai.completion.protocol import (
    CompletionLogProbs,
    CompletionResponse,
    CompletionResponseChoice,
)

from conf_server.serving.summaries import WithEarlyStop, WithSummary
from conf_server.serving.think_response import THOUGHT_EXAMPLE, WithThinking

_CHAT_EXAMPLE: Final[Any] = {
    "id": "chatcmpl-9f1d",
    "object": "chat.completion",
    "created": 1767225600,
    "model": "smol",
    "choices": [
        {
            "index": 0,
            "message": {
                "role": "assistant",
                "content": "The capital of France is Paris.",
            },
            "finish_reason": "stop",
            "logprobs": {
                "content": [],
                "confidence_summary": {
                    "mean_confidence": 7.07,
                    "tail_2048_mean_conf": 7.07,
                    "min_sliding_2048_mean_conf": 3.7,
                    "bottom_0.1_sliding_2048_mean_conf": 3.7,
                    "bottom_0.5_sliding_2048_mean_conf": 5.84,
                },
            },
        }
    ],
    "usage": {"prompt_tokens": 37, "completion_tokens": 8, "total_tokens": 45},
}


class ConfidenceToken(ChatCompletionLogProbsContent):
    """A token of a chat's answer."""

    confidence: float | None = Field(
        default=None, description="Minus the mean log-probability of the top k; higher is surer."
    )
    uncertainty: dict[str, float | None] | None = Field(
        default=None, description="The metrics asked for, of this token alone."
    )


class ConfidenceChatLogProbs(WithSummary, ChatCompletionLogProbs):
    """`logprobs` of a chat's choice."""

    content: list[ConfidenceToken] | None = Field(  # type: ignore[assignment]  # of a subclass
        default=None, description="The tokens; none in the modes `stats` and `empty`."
    )


class ConfidenceChatMessage(WithSummary, ChatMessage):
    """The message of a chat's choice; what it has of confidence is that of the `logprobs`."""


class ConfidenceChatChoice(WithEarlyStop, ChatCompletionResponseChoice):
    """A chat's choice."""

    message: ConfidenceChatMessage

    logprobs: ConfidenceChatLogProbs | None = Field(
        default=None, description="Where the request has `logprobs` or `confidence`."
    )


class ConfidenceChatCompletionResponse(ChatCompletionResponse):
    """OpenAI's answer of a chat, with confidence beside the log-probabilities."""

    model_config = ConfigDict(json_schema_extra={"examples": [_CHAT_EXAMPLE]})

    choices: list[ConfidenceChatChoice]  # type: ignore[assignment]  # of a subclass


class ThinkChatCompletionResponse(WithThinking, ConfidenceChatCompletionResponse):
    """A chat's answer that many traces have voted for."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [_CHAT_EXAMPLE | {"think": THOUGHT_EXAMPLE}]}
    )


class ConfidenceCompletionLogProbs(WithSummary, CompletionLogProbs):
    """`logprobs` of a completion's choice: lists with one entry a token."""

    confidence: list[float | None] | None = Field(
        default=None, description="Each token's: minus the mean log-probability of the top k."
    )
    token_uncertainty: list[dict[str, float | None]] | None = Field(
        default=None, description="The metrics asked for, of each token alone."
    )


class ConfidenceCompletionChoice(WithEarlyStop, CompletionResponseChoice):
    """A completion's choice."""

    logprobs: ConfidenceCompletionLogProbs | None = Field(
        default=None, description="Where the request has `logprobs` or `confidence`."
    )


class ConfidenceCompletionResponse(CompletionResponse):
    """OpenAI's answer of a completion, with confidence beside the log-probabilities."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": "cmpl-9f1d",
                    "object": "text_completion",
                    "created": 1767225600,
                    "model": "smol",
                    "choices": [
                        {
                            "index": 0,
                            "text": " Paris",
                            "finish_reason": "length",
                            "logprobs": {
                                "text_offset": [0],
                                "token_logprobs": [-0.2606],
                                "tokens": [" Paris"],
                                "top_logprobs": [{" Paris": -0.2606}],
                                "confidence": [5.0741],
                            },
                        }
                    ],
                    "usage": {"prompt_tokens": 5, "completion_tokens": 1, "total_tokens": 6},
                }
            ]
        }
    )

    choices: list[ConfidenceCompletionChoice]  # type: ignore[assignment]  # of a subclass
