"""POST /v1/uncertainty: what it takes and what it answers."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from vllm.exceptions import VLLMValidationError
from vllm.utils import random_uuid

from conf_server.serving.encodable import refuse_unencodable

Text = Annotated[str, Field(strict=True)]
TokenId = Annotated[int, Field(strict=True, ge=0, le=2**31 - 1)]

# What the handler decides itself, or what has no meaning for it.
_REFUSED: Final = {
    "n": "`uncertainty.n_samples` says how many samples to draw",
    "temperature": "the answer is greedy; `uncertainty.temperature` is that of the samples",
    "confidence": "the estimates are under `estimates`; see `uncertainty.methods`",
    "logprobs": "POST /v1/chat/completions shows log-probabilities",
    "top_logprobs": "POST /v1/chat/completions shows log-probabilities",
    "logprob_token_ids": "the estimators weigh the likeliest tokens",
    "prompt_logprobs": "POST /v1/score scores a prompt",
    "use_beam_search": "beams are no samples",
    "prompt_embeds": "the estimators read the prompt's text",
    "echo": "POST /v1/score scores a prompt",
    "best_of": "`uncertainty.n_samples` says how many samples to draw",
    "tools": "an answer has to be text",
    "stream_options": "a stream of progress has no options",
}


class UncertaintyOptions(BaseModel):
    """What to estimate, and from what. All fields are optional."""

    model_config = ConfigDict(extra="forbid", strict=True)

    methods: Annotated[list[str], Field(min_length=1)] = Field(
        default=["fast"],
        description="Names from GET /v1/uncertainty/methods, or the groups `fast` (one answer, no "
        "samples) and `all` (all that this server can).",
    )
    n_samples: Annotated[int, Field(ge=1)] = Field(
        default=10, description="Samples to draw, where a method wants any."
    )
    similarity: str | None = Field(
        default=None,
        description="Who compares texts: jaccard, rouge_l, self_nli, embedding, nli. Default: the "
        "best that this server has without a further model.",
    )
    temperature: Annotated[float, Field(gt=0, le=2)] = Field(
        default=1.0, strict=False, description="Temperature of the samples."
    )
    return_samples: bool = Field(default=False, description="Return the samples too.")


class UncertaintyRequest(BaseModel):
    """A chat or completion request, of which everything else is taken as vLLM takes it."""

    model_config = ConfigDict(extra="allow")

    messages: list[dict[str, Any]] | None = Field(default=None, description="A chat.")
    prompt: Text | list[TokenId] | None = Field(
        default=None, description="Or a text to complete, or its token ids."
    )
    model: str | None = Field(default=None, description="Served model or LoRA adapter.")
    uncertainty: UncertaintyOptions = Field(default_factory=UncertaintyOptions)
    answer: Text | None = Field(
        default=None, description="Somebody else's answer, judged instead of one generated here."
    )
    samples: list[Text] | None = Field(
        default=None, description="Further answers of theirs, instead of samples drawn here."
    )
    stream: Annotated[bool, Field(strict=True)] = Field(
        default=False, description="Server-sent events: progress, then the result."
    )
    cache_salt: str | None = Field(
        default=None, min_length=1, description="Keeps this request's prefix cache to itself."
    )
    priority: int = Field(default=0, description="Lower is earlier, with priority scheduling.")
    request_id: str = Field(default_factory=random_uuid)

    @model_validator(mode="after")
    def _check(self) -> UncertaintyRequest:
        if (self.messages is None) == (self.prompt is None):
            raise VLLMValidationError(
                "`messages`: give either `messages` or `prompt`.", parameter="messages"
            )
        for name in ("messages", "prompt", "answer", "samples"):
            value = getattr(self, name)
            if value is not None and not value:
                raise VLLMValidationError(f"`{name}` must not be empty.", parameter=name)
            refuse_unencodable(value, name)
        for index, sample in enumerate(self.samples or ()):
            if not sample:
                name = f"samples.{index}"
                raise VLLMValidationError(f"`{name}` must not be empty.", parameter=name)
        if self.samples is not None and self.answer is None:
            raise VLLMValidationError("`samples` stand beside an `answer`.", parameter="answer")
        for name, reason in _REFUSED.items():
            value = (self.model_extra or {}).get(name)
            if value and (name, value) != ("n", 1):
                raise VLLMValidationError(f"`{name}` has no place here: {reason}.", parameter=name)
        return self

    def generation_fields(self) -> dict[str, Any]:
        """The fields of a chat or completion request for the same model and prompt."""
        extra = self.model_extra or {}
        fields = {name: value for name, value in extra.items() if name not in _REFUSED}
        for name in ("messages", "prompt", "model", "cache_salt", "priority"):
            if name in self.model_fields_set and getattr(self, name) is not None:
                fields[name] = getattr(self, name)
        return fields


class AnswerText(BaseModel):
    """The answer that is judged."""

    text: str
    finish_reason: str | None = None
    num_tokens: int


class SampleText(BaseModel):
    """One further answer, and the sums of its own: null for a client's that nobody scored."""

    text: str
    finish_reason: str | None = None
    num_tokens: int | None
    logprob: float | None
    mean_logprob: float | None
    cluster: int | None = None


class MethodEstimate(BaseModel):
    """One method's verdict."""

    value: float | None
    exact: bool
    higher_is: Literal["more uncertain", "less uncertain"]


class UncertaintyUsage(BaseModel):
    """All tokens that the engine has worked on for this answer."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    stages: dict[str, dict[str, int]]


class UncertaintyResponse(BaseModel):
    """The answer and how sure the model was of it."""

    id: str
    object: Literal["uncertainty"] = "uncertainty"
    created: int
    model: str
    answer: AnswerText
    estimates: dict[str, MethodEstimate]
    unavailable: dict[str, str] | None = None
    similarity: str | None = None
    samples: list[SampleText] | None = None
    clusters: list[int] | None = None
    usage: UncertaintyUsage
    timings: dict[str, float]


class MethodDescription(BaseModel):
    """What GET /v1/uncertainty/methods says of a method."""

    name: str
    description: str
    needs: list[str]
    source: str
    higher_is: Literal["more uncertain", "less uncertain"]
    groups: list[str]
    available: bool
    reason: str | None = None


class MethodList(BaseModel):
    """All methods, the groups, and who can compare texts."""

    object: Literal["list"] = "list"
    data: list[MethodDescription]
    groups: dict[str, list[str]]
    similarities: list[str]
    default_similarity: str
