"""POST /v1/score: what it takes and what it answers."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from conf_server.backends.served_bodies import CheckedBody
from conf_server.refusal import RefusalError
from conf_server.serving.confidence import ConfidenceOptions, MetricName
from conf_server.serving.forced_items import ForcedItem, ForcedRequest
from conf_server.serving.splices import SplicedRequest
from conf_server.serving.summaries import SequenceMetric
from conf_server.settings import Mode

POOLING_FIELDS = ("text_1", "text_2", "queries", "documents", "data_1", "data_2", "query")


class ScoreItem(ForcedItem):
    """A context and the completion, or completions, to score after it."""


class ScoreRequest(CheckedBody, SplicedRequest, ForcedRequest):
    """One item, or many under `items`, and what to answer for each."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "prompt": "The capital of France is",
                    "completions": [" Paris", " London"],
                    "metrics": ["perplexity", "mean_token_entropy"],
                }
            ]
        }
    )

    items: list[ScoreItem] | None = Field(default=None, description="Many items at once.")
    mode: Mode | None = Field(default=None, description="What an item carries; default stats.")
    top_logprobs: Annotated[int, Field(strict=True, ge=0)] = Field(
        default=0, description="Likeliest candidates to show at each token, in mode per_token."
    )
    metrics: list[MetricName] | None = Field(
        default=None, description="Statistics under `uncertainty`; default all."
    )
    confidence: ConfidenceOptions | None = Field(
        default=None, description="top_k and window of the confidence; mode and metrics as above."
    )

    @model_validator(mode="before")
    @classmethod
    def _refuse_pooling_bodies(cls, data: Any) -> Any:
        if isinstance(data, dict):
            for name in POOLING_FIELDS:
                if name in data:
                    raise RefusalError(
                        name,
                        "it belongs to the scoring API of pooling models; this model "
                        "generates text. Send `prompt` and `completion`: see POST /v1/score.",
                    )
        return data

    @model_validator(mode="after")
    def _check(self) -> ScoreRequest:
        self.check_items()
        for name in ("mode", "metrics"):
            if getattr(self, name) is not None and getattr(self.confidence, name, None) is not None:
                raise RefusalError(name, f"it is given beside `confidence.{name}`.")
        return self

    @property
    def names_metrics(self) -> bool:
        """Whether the client has chosen metrics, and so wants each token's too."""
        options = self.confidence
        return self.metrics is not None or (options is not None and options.metrics is not None)


class ScoredCandidate(BaseModel):
    """One of the likeliest tokens at a position."""

    token: str = Field(description="Its text.")
    token_id: int = Field(description="Its number in the vocabulary.")
    bytes: list[int] = Field(description="The text in UTF-8.")
    logprob: float | None = Field(description="Log-probability, in nats.")


class ScoredToken(ScoredCandidate):
    """A token of a completion. Its numbers are null where nothing stood before it."""

    rank: int | None = Field(description="1 for the likeliest token at its position.")
    confidence: float | None = Field(
        description="Minus the mean log-probability of the top k; higher is surer."
    )
    entropy: float | None = Field(
        description="Of the distribution it was drawn from, in nats; see `entropy_exact`."
    )
    uncertainty: dict[str, float | None] | None = Field(
        default=None, description="The metrics that the request names, of this token alone."
    )
    top_logprobs: list[ScoredCandidate] = Field(
        description="The likeliest tokens at its position, as many as were asked for."
    )


class ScoreResult(BaseModel):
    """What one completion is worth to the model."""

    index: int = Field(description="Position in `data`.")
    num_tokens: int = Field(description="Tokens of the completion.")
    logprob: float | None = Field(description="Sum over its tokens, in nats.")
    mean_logprob: float | None = Field(description="Mean over its tokens, in nats.")
    perplexity: float | None = Field(description="exp(-mean_logprob).")
    is_greedy: bool | None = Field(description="Every token was as likely as the likeliest.")
    confidence_summary: dict[str, float | None] | None = Field(
        default=None,
        description="Means of the tokens' confidence: of all, of the last window, of the lowest.",
    )
    uncertainty: dict[str, SequenceMetric] | None = Field(
        default=None, description="All metrics, or those that the request names."
    )
    entropy_exact: bool | None = Field(
        default=None,
        description="Whether the tokens' `entropy` is of the whole vocabulary, not of its top k.",
    )
    tokens: list[ScoredToken] | None = Field(
        default=None, description="In the modes `per_token` and `summary`."
    )


class CachedTokens(BaseModel):
    """What the prefix cache has saved."""

    cached_tokens: int = Field(description="Tokens that were there already.")


class ScoreUsage(BaseModel):
    """Tokens forced through the model, and those the prefix cache saved."""

    prompt_tokens: int = Field(description="Of all contexts and completions.")
    total_tokens: int = Field(description="The same: nothing is generated.")
    prompt_tokens_details: CachedTokens | None = Field(
        description="`cached_tokens`: those that were in the prefix cache. Null unless the server "
        "was started with --enable-prompt-tokens-details."
    )


class ScoreResponse(BaseModel):
    """Results in the order of the items and of their completions."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": "score-9f1d",
                    "object": "score",
                    "created": 1767225600,
                    "model": "smol",
                    "data": [
                        {
                            "index": 0,
                            "num_tokens": 1,
                            "logprob": -0.2606,
                            "mean_logprob": -0.2606,
                            "perplexity": 1.2977,
                            "is_greedy": True,
                            "confidence_summary": {
                                "mean_confidence": 5.0741,
                                "tail_2048_mean_conf": 5.0741,
                                "min_sliding_2048_mean_conf": 5.0741,
                                "bottom_0.1_sliding_2048_mean_conf": 5.0741,
                                "bottom_0.5_sliding_2048_mean_conf": 5.0741,
                            },
                            "uncertainty": {"mean_token_entropy": {"value": 1.4962, "exact": True}},
                        }
                    ],
                    "usage": {
                        "prompt_tokens": 6,
                        "total_tokens": 6,
                        "prompt_tokens_details": {"cached_tokens": 0},
                    },
                }
            ]
        }
    )

    id: str = Field(description="The request's name, with `score-` before it.")
    object: Literal["score"]
    created: int = Field(description="Seconds since 1970.")
    model: str = Field(description="Who has scored: served name or LoRA adapter.")
    data: list[ScoreResult] = Field(description="One result a completion.")
    usage: ScoreUsage
