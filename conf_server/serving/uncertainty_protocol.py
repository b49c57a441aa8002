"""POST /v1/uncertainty: what it takes and what it answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from conf_server.backends.base import Ask, Caller, Plain, Prompt
from conf_server.backends.paired import Side
from conf_server.backends.served_bodies import CheckedBody
from conf_server.gathering.inquiry import Inquiry, Relevance
from conf_server.refusal import RefusalError
from conf_server.serving.fields import Priority, RequestId
from conf_server.serving.given_texts import (
    GivenText,
    Messages,
    chat_of,
    check_given,
    completion_of,
)
from conf_server.uncertainty.registry import GROUPS, METHODS

Text = Annotated[str, Field(strict=True)]
TokenId = Annotated[int, Field(strict=True, ge=0, le=2**31 - 1)]
Length = Annotated[int, Field(strict=True)]

# Enums in the schema only: what a server can do is checked, in words, where it is planned.
MethodName = Annotated[str, Field(json_schema_extra=lambda schema: schema.update(enum=_names()))]
SimilarityName = Annotated[
    str,
    Field(
        json_schema_extra={
            "enum": ["jaccard", "rouge_l", "self_nli", "hidden_states", "embedding", "nli"]
        }
    ),
]
SideName = Annotated[str, Field(json_schema_extra={"enum": [side.value for side in Side]})]


def _names() -> list[str]:
    return [*GROUPS, *METHODS]


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

    methods: Annotated[list[MethodName], Field(min_length=1)] = Field(
        default=["fast"],
        description="Names from GET /v1/uncertainty/methods, or the groups `fast` (one answer, no "
        "samples) and `all` (all that this server can). The server's --default-methods take the "
        "place of the default.",
    )
    n_samples: Annotated[int, Field(ge=1)] = Field(
        default=10, description="Samples to draw, where a method wants any."
    )
    similarity: SimilarityName | None = Field(
        default=None,
        description="Who compares texts; `embedding` and `nli` need a model that the server was "
        "started with, `hidden_states` a server that gives them. Default: the best that this "
        "server has.",
    )
    relevance: Relevance = Field(
        default="with_question",
        description="How `token_sar` and `sar` tell how much a token matters: from the answer with "
        "and without it, with the question in front of both, or from the answer alone.",
    )
    backend: Literal["engine", "scorer"] | None = Field(
        default=None,
        description="Who reads prompt and answers once more, for methods that need it: the engine, "
        "or a second process with transformers (--scorer). Default: the engine where it can.",
    )
    temperature: Annotated[float, Field(gt=0, le=2)] = Field(
        default=1.0, strict=False, description="Temperature of the samples."
    )
    rauq_alpha: Annotated[float, Field(ge=0, le=1)] | None = Field(
        default=None,
        strict=False,
        description="How much `rauq` and `rauq_entropy` make of a token's own probability, beside "
        "those before it. Default: their authors' for instruction-tuned models where the model has "
        "a chat template (0.5 and 0.9), for base models where not (0.2 and 0.8).",
    )
    return_samples: bool = Field(default=False, description="Return the samples too.")


class UncertaintyRequest(CheckedBody):
    """A chat or completion request, of which everything else is taken as vLLM takes it."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={
            "examples": [
                {
                    "messages": [{"role": "user", "content": "What is the capital of France?"}],
                    "max_tokens": 32,
                    "uncertainty": {"methods": ["fast"]},
                }
            ]
        },
    )

    messages: Messages | None = Field(default=None, description="A chat.")
    prompt: Text | list[TokenId] | None = Field(
        default=None, description="Or a text to complete, or its token ids."
    )
    model: str | None = Field(default=None, description="Served model or LoRA adapter.")
    uncertainty: UncertaintyOptions = Field(
        default_factory=UncertaintyOptions, description="What to estimate, and from what."
    )
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
    priority: Priority = 0
    request_id: RequestId

    @model_validator(mode="after")
    def _check(self) -> UncertaintyRequest:
        if (self.messages is None) == (self.prompt is None):
            raise RefusalError("messages", "give either `messages` or `prompt`.")
        for name in ("messages", "prompt", "samples"):
            value = getattr(self, name)
            if value is not None and not value:
                raise RefusalError(name, "it must not be empty.")
        if self.answer is not None:
            check_given(self.answer, "answer")
        for index, sample in enumerate(self.samples or ()):
            check_given(sample, f"samples.{index}")
        if self.samples is not None and self.answer is None:
            raise RefusalError("answer", "`samples` stand beside one.")
        for name, (nothing, reason) in _REFUSED.items():
            value = (self.model_extra or {}).get(name)
            # By type too: 0 candidates are asked for with `logprobs: 0`, none with false.
            if value is not None and (type(value), value) != (type(nothing), nothing):
                raise RefusalError(name, f"it has no place here: {reason}.")
        return self

    def inquiry(
        self, request_id: str, headers: Mapping[str, str], default_methods: tuple[str, ...] = ()
    ) -> Inquiry:
        """The same request as plain data, for layers that know no HTTP.

        Args:
            default_methods: where the request names none; the field's own default without any.
        """
        named = self.uncertainty.methods
        if default_methods and "methods" not in self.uncertainty.model_fields_set:
            named = list(default_methods)
        options = {k: v for k, v in (self.model_extra or {}).items() if k not in _REFUSED}
        prompt: Prompt
        if self.messages is not None:
            prompt = chat_of(self.messages, options)
        else:
            content = self.prompt if isinstance(self.prompt, str) else tuple(self.prompt or ())
            special = options.pop("add_special_tokens", None)
            if special is not None and not isinstance(special, bool):
                raise RefusalError("add_special_tokens", "it must be true or false.")
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
            methods=tuple(named),
            n_samples=self.uncertainty.n_samples,
            similarity=self.uncertainty.similarity,
            relevance=self.uncertainty.relevance,
            rauq_alpha=self.uncertainty.rauq_alpha,
            backend=None if self.uncertainty.backend is None else Side(self.uncertainty.backend),
            length_field=length_field,
            answer=None if self.answer is None else completion_of(self.answer),
            samples=tuple(map(completion_of, self.samples or ())),
        )


class AnswerText(BaseModel):
    """The answer that is judged."""

    text: str = Field(description="Generated here, or the client's.")
    finish_reason: str | None = Field(
        default=None, description="Why it ends; null where the client gave it."
    )
    num_tokens: int = Field(description="Tokens, its end token included where it was generated.")


class SampleText(BaseModel):
    """One further answer, and the sums of its own: null for a client's that nobody scored."""

    text: str = Field(description="Drawn here, or the client's.")
    finish_reason: str | None = Field(
        default=None, description="Why it ends; null where the client gave it."
    )
    num_tokens: int | None = Field(description="Tokens that its sums are over.")
    logprob: float | None = Field(description="Sum over its tokens, in nats.")
    mean_logprob: float | None = Field(description="Mean over its tokens, in nats.")
    cluster: int | None = Field(
        default=None, description="Number of its meaning, where a method has told meanings apart."
    )


class MethodEstimate(BaseModel):
    """One method's verdict."""

    value: float | None = Field(description="Null where the method found nothing to go by.")
    exact: bool = Field(description="False: computed from less than the method is defined on.")
    higher_is: Literal["more uncertain", "less uncertain"] = Field(
        description="What a higher value means."
    )
    details: dict[str, Any] | None = Field(
        default=None, description="What else the method has found out, where it has."
    )
    backend: Literal["engine", "scorer"] = Field(
        default="engine",
        description="`scorer` where it has read anything for this. Absent where not: then all is "
        "the engine's.",
    )


class UncertaintyUsage(BaseModel):
    """All tokens that the engine has worked on for this answer."""

    prompt_tokens: int = Field(description="Read, in all stages.")
    completion_tokens: int = Field(description="Generated, in all stages.")
    total_tokens: int = Field(description="Both.")
    stages: dict[str, dict[str, int]] = Field(description="The same by stage.")


class UncertaintyResponse(BaseModel):
    """The answer and how sure the model was of it."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": "uncertainty-9f1d",
                    "object": "uncertainty",
                    "created": 1767225600,
                    "model": "smol",
                    "answer": {
                        "text": "The capital of France is Paris.",
                        "finish_reason": "stop",
                        "num_tokens": 8,
                    },
                    "estimates": {
                        "mean_token_entropy": {
                            "value": 0.8284,
                            "exact": True,
                            "higher_is": "more uncertain",
                        }
                    },
                    "usage": {
                        "prompt_tokens": 37,
                        "completion_tokens": 8,
                        "total_tokens": 45,
                        "stages": {"answer": {"prompt_tokens": 37, "completion_tokens": 8}},
                    },
                    "timings": {"answer": 0.21, "estimates": 0.001, "total": 0.22},
                }
            ]
        }
    )

    id: str = Field(description="The request's name, with `uncertainty-` before it.")
    object: Literal["uncertainty"] = "uncertainty"
    created: int = Field(description="Seconds since 1970.")
    model: str = Field(description="Who was asked: served name or LoRA adapter.")
    answer: AnswerText
    estimates: dict[str, MethodEstimate] = Field(description="By method.")
    unavailable: dict[str, str] | None = Field(
        default=None, description="Methods that could not be done for this answer, and why."
    )
    similarity: str | None = Field(default=None, description="Who compared the texts.")
    samples: list[SampleText] | None = Field(
        default=None, description="With `uncertainty.return_samples`."
    )
    clusters: list[int] | None = Field(
        default=None, description="Number of each sample's meaning, where meanings were told apart."
    )
    usage: UncertaintyUsage
    timings: dict[str, float] = Field(description="Seconds by stage.")


class FitDescription(BaseModel):
    """What a method has learned from texts."""

    layer: int | None = Field(
        description="Whose hidden states it reads, as in POST /v1/hidden_states; null where it "
        "reads the attention of all layers."
    )
    pooling: str = Field(
        description="`text`: the mean over prompt and answer; `answer`: over the answer; `last`: "
        "the answer's last token; `lookback`: no hidden states, but how far heads look back."
    )
    texts: int = Field(description="Texts that it was fitted on.")


class MethodDescription(BaseModel):
    """What GET /v1/uncertainty/methods says of a method."""

    name: str = Field(description="As `uncertainty.methods` takes it.")
    description: str = Field(description="One line for people.")
    needs: list[str] = Field(description="Kinds of evidence that it reads.")
    source: str = Field(description="The paper or the code that defines the number.")
    higher_is: Literal["more uncertain", "less uncertain"] = Field(
        description="What a higher value means."
    )
    groups: list[str] = Field(description="Groups that it belongs to.")
    available: bool = Field(description="Whether this server can do it.")
    reason: str | None = Field(default=None, description="Why not, and what would mend that.")
    fit: FitDescription | None = Field(
        default=None, description="Of a method that has to be fitted, and was (`--fitted`)."
    )
    backend: SideName | None = Field(
        default=None,
        description="Who reads prompt and answers once more for it, unless a request's "
        "`uncertainty.backend` says otherwise; null where nobody has to, or can.",
    )


class MethodList(BaseModel):
    """All methods, the groups, and who can compare texts."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "object": "list",
                    "data": [
                        {
                            "name": "mean_token_entropy",
                            "description": "Mean entropy of the distributions along the answer.",
                            "needs": ["answer_statistics"],
                            "source": "arXiv 2002.07650",
                            "higher_is": "more uncertain",
                            "groups": ["fast", "all"],
                            "available": True,
                            "reason": None,
                            "fit": None,
                            "backend": None,
                        }
                    ],
                    "groups": {"fast": ["mean_token_entropy"]},
                    "similarities": ["jaccard", "rouge_l", "self_nli"],
                    "default_similarity": "self_nli",
                }
            ]
        }
    )

    object: Literal["list"] = "list"
    data: list[MethodDescription] = Field(description="All methods.")
    groups: dict[str, list[str]] = Field(description="The methods of each group.")
    similarities: list[str] = Field(description="Who can compare texts on this server.")
    default_similarity: str = Field(description="Who does, unless a request says otherwise.")
