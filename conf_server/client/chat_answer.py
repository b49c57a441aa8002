"""What `/v1/chat/completions` answers, with the confidence that conf-server adds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from conf_server.client.results import Results, prefixed
from conf_server.client.tokens import Json, Metric, Token, metrics_of, tokens_of, values_of


@dataclass(frozen=True)
class ChatChoice:
    """One answer, or what one chunk of a stream adds to it.

    Attributes:
        index: which of the `n` answers it is.
        text: the message's content; "" where it has none, such as beside tool calls.
        finish_reason: why it ends; None in a chunk before the end.
        tokens: with log-probabilities and confidence; None without `logprobs` and `confidence`,
            and empty in the modes `stats` and `empty`.
        confidence_summary: means of the tokens' confidence by name, higher is surer. In a stream
            it comes at the end.
        uncertainty: metrics by name, higher is less sure; likewise.
        raw: what the server has sent.
    """

    index: int
    text: str
    finish_reason: str | None
    tokens: Results[Token] | None
    confidence_summary: Mapping[str, float | None] | None
    uncertainty: Mapping[str, Metric]
    raw: Json = field(repr=False)

    def row(self) -> dict[str, Any]:
        """Its row in a table."""
        own = {name: getattr(self, name) for name in ("index", "text", "finish_reason")}
        metrics = prefixed("uncertainty", values_of(self.uncertainty))
        return {**own, **(self.confidence_summary or {}), **metrics}


@dataclass(frozen=True)
class Chat:
    """The answers to a chat, or a chunk of the stream of them.

    Attributes:
        model: who was asked.
        choices: the answers. Of a stream's chunk, what it adds; none in one that has the usage.
        usage: tokens read and generated; None where the server does not say it.
        raw: what the server has sent.

    `text`, `finish_reason`, `tokens`, `confidence_summary` and `uncertainty` are the first
    answer's.
    """

    model: str
    choices: Results[ChatChoice]
    usage: Json | None
    raw: Json = field(repr=False)

    @property
    def text(self) -> str:
        return self.choices[0].text if self.choices else ""

    @property
    def finish_reason(self) -> str | None:
        return self.choices[0].finish_reason if self.choices else None

    @property
    def tokens(self) -> Results[Token] | None:
        return self.choices[0].tokens if self.choices else None

    @property
    def confidence_summary(self) -> Mapping[str, float | None] | None:
        return self.choices[0].confidence_summary if self.choices else None

    @property
    def uncertainty(self) -> Mapping[str, Metric]:
        return self.choices[0].uncertainty if self.choices else {}


def chat_of(found: Json) -> Chat:
    """An answer of POST /v1/chat/completions, or a chunk of it."""
    return Chat(
        model=found["model"],
        choices=Results(map(_choice, found["choices"])),
        usage=found.get("usage"),
        raw=found,
    )


def _choice(found: Json) -> ChatChoice:
    message = found.get("message") or found.get("delta") or {}
    logprobs = found.get("logprobs") or {}
    content = logprobs.get("content")
    return ChatChoice(
        index=found["index"],
        text=message.get("content") or "",
        finish_reason=found.get("finish_reason"),
        tokens=None if content is None else tokens_of(content),
        confidence_summary=logprobs.get("confidence_summary"),
        uncertainty=metrics_of(logprobs.get("uncertainty")),
        raw=found,
    )
