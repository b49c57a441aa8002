"""POST /v1/score: what it takes and what it answers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from vllm.entrypoints.serve.engine.protocol import PromptTokenUsageInfo
from vllm.exceptions import VLLMValidationError
from vllm.utils import random_uuid

from conf_server.serving.confidence import ConfidenceOptions, MetricName
from conf_server.serving.encodable import refuse_unencodable
from conf_server.settings import Mode

TokenIds = list[Annotated[int, Field(strict=True, ge=0)]]
Text = Annotated[str, Field(strict=True)]

POOLING_FIELDS = ("text_1", "text_2", "queries", "documents", "data_1", "data_2", "query")


class ScoreItem(BaseModel):
    """A context and the completion, or completions, to score after it."""

    model_config = ConfigDict(extra="forbid")

    prompt: Text | TokenIds | None = Field(
        default=None, description="Context as text or token ids; may be empty."
    )
    messages: list[dict[str, Any]] | None = Field(
        default=None, description="Context as a chat, rendered with the model's template."
    )
    completion: Text | TokenIds | None = Field(
        default=None, description="What to score, as text or token ids."
    )
    completions: list[Text | TokenIds] | None = Field(
        default=None, description="Several completions of the same context."
    )
    add_special_tokens: bool = Field(
        default=True, description="Add the tokenizer's special tokens (BOS) to a text prompt."
    )
    chat_template: str | None = Field(
        default=None,
        description="Instead of the model's own; the server needs --trust-request-chat-template.",
    )
    chat_template_kwargs: dict[str, Any] | None = Field(
        default=None, description="Further arguments of the chat template."
    )

    def texts(self) -> list[str | list[int]]:
        """The completions, however they were given."""
        return [self.completion] if self.completion is not None else list(self.completions or ())


class ScoreRequest(ScoreItem):
    """One item, or many under `items`, and what to answer for each."""

    items: list[ScoreItem] | None = Field(default=None, description="Many items at once.")
    model: str | None = Field(default=None, description="Served model or LoRA adapter.")
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
    cache_salt: str | None = Field(
        default=None, min_length=1, description="Keeps this request's prefix cache to itself."
    )
    priority: int = Field(default=0, description="Lower is earlier, with priority scheduling.")
    request_id: str = Field(default_factory=random_uuid)

    @model_validator(mode="before")
    @classmethod
    def _refuse_pooling_bodies(cls, data: Any) -> Any:
        if isinstance(data, dict):
            for name in POOLING_FIELDS:
                if name in data:
                    raise VLLMValidationError(
                        f"`{name}` belongs to the scoring API of pooling models; this model "
                        "generates text. Send `prompt` and `completion`: see POST /v1/score.",
                        parameter=name,
                    )
        return data

    @model_validator(mode="after")
    def _check(self) -> ScoreRequest:
        own = {"prompt", "messages", "completion", "completions"}
        own |= {"chat_template", "chat_template_kwargs"}
        given = sorted(name for name in own if getattr(self, name) is not None)
        if self.items is None:
            _check_item(self, "")
        elif given:
            raise VLLMValidationError(
                f"`{given[0]}` stands beside `items`; put it into each item.", parameter=given[0]
            )
        elif not self.items:
            raise VLLMValidationError("`items` must not be empty.", parameter="items")
        for index, item in enumerate(self.items or ()):
            _check_item(item, f"items.{index}.")
        for name in ("mode", "metrics"):
            if getattr(self, name) is not None and getattr(self.confidence, name, None) is not None:
                raise VLLMValidationError(
                    f"`{name}` and `confidence.{name}` are both given.", parameter=name
                )
        return self

    @property
    def names_metrics(self) -> bool:
        """Whether the client has chosen metrics, and so wants each token's too."""
        options = self.confidence
        return self.metrics is not None or (options is not None and options.metrics is not None)

    def each_item(self) -> Iterator[tuple[str, ScoreItem]]:
        """Items with the path of their fields, for error messages."""
        if self.items is None:
            yield "", self
        for index, item in enumerate(self.items or ()):
            yield f"items.{index}.", item


def _check_item(item: ScoreItem, path: str) -> None:
    for name in ("prompt", "messages", "completion", "completions"):
        refuse_unencodable(getattr(item, name), f"{path}{name}")
    if (item.prompt is None) == (item.messages is None):
        raise VLLMValidationError(
            f"`{path}prompt`: give either `prompt` or `messages`"
            " (an empty prompt scores a text on its own).",
            parameter=f"{path}prompt",
        )
    if (item.completion is None) == (item.completions is None):
        raise VLLMValidationError(
            f"`{path}completion`: give either `completion` or `completions`.",
            parameter=f"{path}completion",
        )
    if item.messages is not None and not item.messages:
        raise VLLMValidationError(
            f"`{path}messages` must not be empty.", parameter=f"{path}messages"
        )
    texts = item.texts()
    if not texts:
        raise VLLMValidationError(
            f"`{path}completions` must not be empty.", parameter=f"{path}completions"
        )
    for index, text in enumerate(texts):
        if not text:
            name = f"{path}completion" if item.completions is None else f"{path}completions.{index}"
            raise VLLMValidationError(f"`{name}` must not be empty.", parameter=name)


class ScoredCandidate(BaseModel):
    """One of the likeliest tokens at a position."""

    token: str
    token_id: int
    bytes: list[int]
    logprob: float | None


class ScoredToken(BaseModel):
    """A token of a completion; all null where nothing stood before it."""

    token: str
    token_id: int
    bytes: list[int]
    logprob: float | None
    rank: int | None
    confidence: float | None
    entropy: float | None
    uncertainty: dict[str, float | None] | None = None
    top_logprobs: list[ScoredCandidate]


class ScoreResult(BaseModel):
    """What one completion is worth to the model."""

    index: int
    num_tokens: int
    logprob: float | None
    mean_logprob: float | None
    perplexity: float | None
    is_greedy: bool | None
    confidence_summary: dict[str, float | None] | None = None
    uncertainty: dict[str, dict[str, Any]] | None = None
    entropy_exact: bool | None = None
    tokens: list[ScoredToken] | None = None


class ScoreUsage(BaseModel):
    """Tokens forced through the model, and those the prefix cache saved."""

    prompt_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokenUsageInfo


class ScoreResponse(BaseModel):
    """Results in the order of the items and of their completions."""

    id: str
    object: Literal["score"]
    created: int
    model: str
    data: list[ScoreResult]
    usage: ScoreUsage
