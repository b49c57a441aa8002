"""POST /v1/uncertainty: what it takes and what it answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from conf_server.backends.base import Ask, Caller, Plain, Prompt
from conf_server.gathering.inquiry import Inquiry
from conf_server.serving.encodable import refuse_unencodable
from conf_server.serving.given_texts import GivenText, chat_of, check_given, completion_of
from conf_server.serving.refusals import refused

Text = Annotated[str, Field(strict=True)]
TokenId = Annotated[int, Field(strict=True, ge=0, le=2**31 - 1)]
Length = Annotated[int, Field(strict=True)]

# What the handler decides itself, or what has no meaning for it, and the value that says nothing.
_REFUSED: Final[dict[str, tuple[Any, str]]] = {
    "n": (1, "`uncertainty.n_samples` says how many samples to draw"),
    "temperature": (None, "the answer is greedy; `uncertainty.temperature` is that of the samples"),
    "confidence": (None, "the estimates are under `estimates`; see `uncertainty.methods`"),
    "logprobs": (False, "POST /v1/chat/completions shows log-probabilities"),
    "top_logprobs": (None, "POST /v1/chat/completions shows log-probabilities"),
    "logprob_token_ids": (None, "the estimators weigh the likeliest tokens"),
    "prompt_logprobs": (None, "POST /v1/score scores a prompt"),
    "use_beam_search": (False, "beams are no samples"),
    "prompt_embeds": (None, "the estimators read the prompt's text"),
    "echo": (False, "POST /v1/score scores a prompt"),
    "best_of": (1, "`uncertainty.n_samples` says how many samples to draw"),
    "tools": ([], "an answer has to be text"),
    "stream_options": (None, "a stream of progress has no options"),
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
    max_tokens: Length | None = Field(
        default=None, description="Most tokens of each answer; default: the room that is left."
    )
    max_completion_tokens: Length | None = Field(
        default=None, description="The same, for a chat; it counts where both are given."
    )
    seed: int | None = Field(default=None, description="Makes the samples reproducible.")
    answer: GivenText | None = Field(
        default=None, description="Somebody else's answer, judged instead of one generated here."
    )
    samples: list[GivenText] | None = Field(
        default=None, description="Further answers of theirs, instead of samples drawn here."
    )
    stream: Annotated[bool, Field(strict=True)] = Field(
        default=False, description="Server-sent events: progress, then the result."
    )
    cache_salt: str | None = Field(
        default=None, min_length=1, description="Keeps this request's prefix cache to itself."
    )
    priority: int = Field(default=0, description="Lower is earlier, with priority scheduling.")
    request_id: str | None = Field(default=None, description="Name of the request in logs.")

    @model_validator(mode="after")
    def _check(self) -> UncertaintyRequest:
        if (self.messages is None) == (self.prompt is None):
            raise refused("messages", "give either `messages` or `prompt`.")
        for name in ("messages", "prompt", "samples"):
            value = getattr(self, name)
            if value is not None and not value:
                raise refused(name, "it must not be empty.")
        refuse_unencodable(self.messages, "messages")
        refuse_unencodable(self.prompt, "prompt")
        if self.answer is not None:
            check_given(self.answer, "answer")
        for index, sample in enumerate(self.samples or ()):
            check_given(sample, f"samples.{index}")
        if self.samples is not None and self.answer is None:
            raise refused("answer", "`samples` stand beside one.")
        for name, (nothing, reason) in _REFUSED.items():
            value = (self.model_extra or {}).get(name)
            # By type too: 0 candidates are asked for with `logprobs: 0`, none with false.
            if value is not None and (type(value), value) != (type(nothing), nothing):
                raise refused(name, f"it has no place here: {reason}.")
        return self

    def inquiry(self, request_id: str, headers: Mapping[str, str]) -> Inquiry:
        """The same request as plain data, for layers that know no HTTP."""
        options = {k: v for k, v in (self.model_extra or {}).items() if k not in _REFUSED}
        prompt: Prompt
        if self.messages is not None:
            prompt = chat_of(self.messages, options)
        else:
            content = self.prompt if isinstance(self.prompt, str) else tuple(self.prompt or ())
            special = options.pop("add_special_tokens", None)
            if special is not None and not isinstance(special, bool):
                raise refused("add_special_tokens", "it must be true or false.")
            prompt = Plain(content, special is not False)
        length_field = "max_tokens" if self.max_tokens is not None else None
        length = self.max_tokens
        if self.messages is not None and self.max_completion_tokens is not None:
            # vLLM's order, where a chat has both.
            length_field, length = "max_completion_tokens", self.max_completion_tokens
        options["seed"] = self.seed
        return Inquiry(
            ask=Ask(
                prompt=prompt,
                temperature=self.uncertainty.temperature,
                max_tokens=length,
                options=options,
            ),
            caller=Caller(request_id, self.model, self.cache_salt, self.priority, headers),
            methods=tuple(self.uncertainty.methods),
            n_samples=self.uncertainty.n_samples,
            similarity=self.uncertainty.similarity,
            length_field=length_field,
            answer=None if self.answer is None else completion_of(self.answer),
            samples=tuple(map(completion_of, self.samples or ())),
        )


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
    details: dict[str, Any] | None = None


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
