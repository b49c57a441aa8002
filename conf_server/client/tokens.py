"""Tokens and metrics, as scored texts and chats both have them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from conf_server.client.results import Results, prefixed

Json = Mapping[str, Any]
"""A JSON object as the server has sent it."""


@dataclass(frozen=True)
class Metric:
    """One metric of an answer.

    Attributes:
        value: higher is less sure; in nats where it is made of logarithms. None where the server
            has no finite number.
        exact: false where it was computed from less than the metric is defined on.
        reason: why one of the server's default methods has no value.
    """

    value: float | None
    exact: bool
    reason: str | None = None


@dataclass(frozen=True)
class Candidate:
    """One of the likeliest tokens at a position.

    Attributes:
        token: its text.
        logprob: its log-probability in nats; None where nothing stood before it.
        token_id: its number in the vocabulary; None in chats, which do not have it.
        bytes: its text in UTF-8; None where the server does not say it.
    """

    token: str
    logprob: float | None
    token_id: int | None
    bytes: bytes | None


@dataclass(frozen=True)
class Token(Candidate):
    """A token of a completion or of an answer, and how sure the model was there.

    Attributes:
        confidence: minus the mean log-probability of the top k, in nats; higher is surer.
        entropy: of the distribution it was drawn from, in nats; None in chats.
        rank: 1 for the likeliest token; None in chats.
        uncertainty: the metrics that the request names, of this token alone.
        top_logprobs: the likeliest tokens at its position, as many as were asked for.
        raw: what the server has sent.
    """

    confidence: float | None
    entropy: float | None
    rank: int | None
    uncertainty: Mapping[str, float | None]
    top_logprobs: tuple[Candidate, ...]
    raw: Json = field(repr=False)

    def row(self) -> dict[str, Any]:
        """Its row in a table."""
        names = ("token", "token_id", "logprob", "rank", "confidence", "entropy")
        own = {name: getattr(self, name) for name in names}
        return {**own, **prefixed("uncertainty", self.uncertainty)}


def tokens_of(found: list[Json]) -> Results[Token]:
    """Tokens of `tokens` (`/v1/score`) or of `logprobs.content` (chats)."""
    return Results(map(_token, found))


def metrics_of(found: Mapping[str, Json] | None) -> dict[str, Metric]:
    """Metrics of an object `uncertainty`."""
    return {
        name: Metric(one["value"], one["exact"], one.get("reason"))
        for name, one in (found or {}).items()
    }


def values_of(metrics: Mapping[str, Metric]) -> dict[str, float | None]:
    """The values alone."""
    return {name: metric.value for name, metric in metrics.items()}


def _token(found: Json) -> Token:
    return Token(
        **_candidate_fields(found),
        confidence=found.get("confidence"),
        entropy=found.get("entropy"),
        rank=found.get("rank"),
        uncertainty=found.get("uncertainty") or {},
        top_logprobs=tuple(
            Candidate(**_candidate_fields(one)) for one in found.get("top_logprobs") or ()
        ),
        raw=found,
    )


def _candidate_fields(found: Json) -> dict[str, Any]:
    text = found.get("bytes")
    return {
        "token": found["token"],
        "logprob": found["logprob"],
        "token_id": found.get("token_id"),
        "bytes": None if text is None else bytes(text),
    }
