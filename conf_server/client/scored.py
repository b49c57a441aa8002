"""What `/v1/score` answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from conf_server.client.results import Results, prefixed
from conf_server.client.tokens import Json, Metric, Token, metrics_of, tokens_of, values_of


@dataclass(frozen=True)
class Scored:
    """What one completion is worth to the model.

    Attributes:
        index: its position among all that were asked about in one call.
        item: the position of its item among `items`; 0 without them.
        num_tokens: tokens of the completion.
        logprob: sum over its tokens, in nats.
        mean_logprob: mean over its tokens, in nats.
        perplexity: exp(-mean_logprob).
        is_greedy: every token was as likely as the likeliest.
        confidence_summary: means of the tokens' confidence by name, higher is surer; None in
            mode `empty`.
        uncertainty: metrics by name, higher is less sure.
        tokens: in the modes `per_token` and `summary`.
        entropy_exact: whether the tokens' `entropy` is of the whole vocabulary; None without them.
        raw: what the server has sent.

    Numbers are None where the server has no finite number: of a first token with nothing before
    it, and of sums in which no token is left.
    """

    index: int
    item: int
    num_tokens: int
    logprob: float | None
    mean_logprob: float | None
    perplexity: float | None
    is_greedy: bool | None
    confidence_summary: Mapping[str, float | None] | None
    uncertainty: Mapping[str, Metric]
    tokens: Results[Token] | None
    entropy_exact: bool | None
    raw: Json = field(repr=False)

    def row(self) -> dict[str, Any]:
        """Its row in a table."""
        names = ("index", "item", "num_tokens", "logprob", "mean_logprob", "perplexity")
        own = {name: getattr(self, name) for name in (*names, "is_greedy")}
        metrics = prefixed("uncertainty", values_of(self.uncertainty))
        return {**own, **(self.confidence_summary or {}), **metrics}


def scored_of(found: Json, index: int, item: int) -> Scored:
    """One result of `data`.

    Args:
        index, item: as of `Scored`; the server counts those of one request.
    """
    tokens = found.get("tokens")
    return Scored(
        index=index,
        item=item,
        num_tokens=found["num_tokens"],
        logprob=found["logprob"],
        mean_logprob=found["mean_logprob"],
        perplexity=found["perplexity"],
        is_greedy=found["is_greedy"],
        confidence_summary=found.get("confidence_summary"),
        uncertainty=metrics_of(found.get("uncertainty")),
        tokens=None if tokens is None else tokens_of(tokens),
        entropy_exact=found.get("entropy_exact"),
        raw=found,
    )
