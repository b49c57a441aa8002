"""POST /v1/hidden_states: what it takes and what it answers."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from conf_server.backends.served_bodies import CheckedBody
from conf_server.refusal import RefusalError
from conf_server.serving.forced_items import ForcedItem, ForcedRequest
from conf_server.serving.score_protocol import ScoreUsage
from conf_server.stats.forced import Pooling, WantedAttention, WantedStates

MAX_HISTORY: Final = 64
"""Tokens of whose attention to those before it an answer tells."""

Layer = Annotated[int, Field(strict=True)]


class HiddenStatesItem(ForcedItem):
    """A text to read: a context alone, or with the completion or completions after it."""

    needs_completion: ClassVar[bool] = False


def numbered(given: list[int], field: str, count: int, known: str) -> tuple[int, ...]:
    """Layers counted from 0.

    Args:
        count: how many there are.
        known: the same for people.

    Raises:
        RefusalError: there is no such layer, or it is named twice.
    """
    layers: list[int] = []
    for index, number in enumerate(given):
        layer = number + count if number < 0 else number
        if not 0 <= layer < count:
            message = (
                f"{number} is no layer of this model, which has {known}, or -1 to {-count} from "
                "the end."
            )
            raise RefusalError(f"{field}.{index}", message, number)
        if layer in layers:
            message = f"{number} is the same layer as `{field}.{layers.index(layer)}`."
            raise RefusalError(f"{field}.{index}", message, number)
        layers.append(layer)
    return tuple(layers)


class AttentionOptions(BaseModel):
    """Which attention weights to answer, of the tokens that count."""

    model_config = ConfigDict(extra="forbid", strict=True)

    layers: Annotated[list[Layer], Field(min_length=1)] | Literal["all"] = Field(
        default=[-1],
        description="Decoder layers, counted from 0. Negative numbers count from the end.",
    )
    history: Annotated[int, Field(ge=0, le=MAX_HISTORY)] = Field(
        default=1,
        description="Of how many tokens a token's weights are answered: of itself, of the one "
        "before it, and so on.",
    )
    context_mass: bool = Field(
        default=False,
        description="Also how much of each token's attention goes to the context: to all that "
        "stands before the completion, or to the whole text where there is none.",
    )
    last_token: bool = Field(
        default=False, description="Also the weights of the text's last token on all of its tokens."
    )

    lookback: bool = Field(
        default=False,
        description="Also each head's lookback ratio, the mean over the completion's tokens: how "
        "far it looks at the context rather than at the completion (arXiv 2407.07071).",
    )

    def wanted(self, num_layers: int) -> WantedAttention:
        """
        Args:
            num_layers: decoder layers of the model.

        Raises:
            RefusalError: the model has no such layer, or it is named twice.
        """
        if self.layers == "all":
            layers = tuple(range(num_layers))
        else:
            known = f"{num_layers}: 0 to {num_layers - 1}"
            layers = numbered(self.layers, "attention.layers", num_layers, known)
        last_on = (0, None) if self.last_token else None
        return WantedAttention(layers, self.history, self.context_mass or self.lookback, last_on)


class HiddenStatesRequest(CheckedBody, ForcedRequest):
    """One item, or many under `items`, and which of their hidden states to answer."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"prompt": "The capital of France is Paris.", "layers": [15, -1]}]
        }
    )

    needs_completion: ClassVar[bool] = False

    items: list[HiddenStatesItem] | None = Field(default=None, description="Many items at once.")
    layers: list[Layer] = Field(
        default=[-1],
        description="0 for the embeddings, i for the output of decoder layer i - 1, and the "
        "model's number of layers for the last one's after the final norm. Negative numbers "
        "count from the end. None are needed beside `attention`.",
    )
    pooling: Pooling = Field(
        default="mean",
        description="One vector a text, the tokens' `mean` or the `last` token's; or one vector a "
        "token: `none`.",
    )
    tokens: Literal["all", "completion"] = Field(
        default="all", description="Which tokens count: the context's too, or the completion's."
    )
    attention: AttentionOptions | None = Field(
        default=None, description="Attention weights to answer beside."
    )
    encoding_format: Literal["base64", "float", "safetensors"] = Field(
        default="base64",
        description="Of `states`: `base64` of little-endian float32, or lists of numbers. Or "
        "`safetensors`: the whole answer is one file of that format instead of JSON.",
    )

    @model_validator(mode="after")
    def _check(self) -> HiddenStatesRequest:
        self.check_items()
        if not self.layers and self.attention is None:
            raise RefusalError("layers", "it must not be empty.")
        if self.attention is not None and self.attention.lookback and self.tokens == "all":
            raise RefusalError(
                "attention.lookback", 'it is of a completion: "tokens": "completion".'
            )
        for path, item in self.each_item():
            if self.tokens == "completion" and not item.texts():
                where = f"`{path.rstrip('.')}`" if path else "the request"
                raise RefusalError("tokens", f"{where} has no completion whose tokens would count.")
        return self

    def wanted(self, num_layers: int) -> WantedStates:
        """
        Args:
            num_layers: decoder layers of the model.

        Raises:
            RefusalError: the model has no such layer, or it is named twice.
        """
        known = f"{num_layers}: 0 (the embeddings) to {num_layers}"
        layers = numbered(self.layers, "layers", num_layers + 1, known)
        attention = None if self.attention is None else self.attention.wanted(num_layers)
        return WantedStates(layers, self.pooling, self.tokens == "completion", attention)


class Weights(BaseModel):
    """Softmax weights of single heads."""

    shape: list[int] = Field(description="Of `values`.")
    values: str | list[Any] = Field(description="As `states`.")


class TextAttention(BaseModel):
    """Attention weights of one text."""

    weights: Weights = Field(
        description="Layers, `num_tokens`, heads, `history`: what a token pays to itself, to the "
        "one before it, ...; 0 where there is none."
    )
    context_mass: Weights | None = Field(
        default=None, description="Layers, `num_tokens`, heads: what goes to the context."
    )
    last_token: Weights | None = Field(
        default=None, description="Layers, heads, all tokens of the text."
    )
    lookback: Weights | None = Field(default=None, description="Layers, heads.")


class HiddenStatesModel(BaseModel):
    """What GET /v1/hidden_states says of the model whose states are to be had."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "object": "hidden_states.model",
                    "root": "/models/smol",
                    "num_layers": 30,
                    "hidden_size": 576,
                    "num_heads": 9,
                    "weights": "sha256:5af571cb",
                    "chat_template": "sha256:872be49d",
                }
            ]
        }
    )

    object: Literal["hidden_states.model"] = "hidden_states.model"
    root: str = Field(description="Folder or name that the weights come from.")
    num_layers: int = Field(description="Decoder layers: the number of the last layer.")
    hidden_size: int = Field(description="Numbers in one hidden state.")
    num_heads: int = Field(description="Of attention in a layer; 0 where there are no weights.")
    weights: str | None = Field(
        description="Fingerprint of the weights' files; null where there are none at hand."
    )
    chat_template: str | None = Field(
        description="SHA-256 of the template that chats are rendered with; null without one."
    )


class HiddenStatesResult(BaseModel):
    """Hidden states of one text."""

    index: int = Field(description="Position in `data`.")
    num_tokens: int = Field(description="Tokens that count.")
    shape: list[int] = Field(
        description="Of `states`: layers, vectors (1 if pooled, else `num_tokens`), hidden size."
    )
    states: str | list[list[list[float | None]]] = Field(
        description="Base64 of little-endian float32 in C order, the last axis fastest; or nested "
        "lists, in which NaN and infinities are null."
    )
    attention: TextAttention | None = Field(
        default=None, description="The weights, if the request wants any."
    )


class HiddenStatesResponse(BaseModel):
    """Results in the order of the items and of their completions."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": "hidden-9f1d",
                    "object": "hidden_states",
                    "created": 1767225600,
                    "model": "smol",
                    "layers": [15, 30],
                    "data": [
                        {
                            "index": 0,
                            "num_tokens": 7,
                            "shape": [2, 1, 3],
                            "states": "AACAPwAAAEAAAEBAAACAQAAAoEAAAMBA",
                        }
                    ],
                    "usage": {
                        "prompt_tokens": 7,
                        "total_tokens": 7,
                        "prompt_tokens_details": {"cached_tokens": 0},
                    },
                }
            ]
        }
    )

    id: str = Field(description="The request's name, with `hidden-` before it.")
    object: Literal["hidden_states"]
    created: int = Field(description="Seconds since 1970.")
    model: str = Field(description="Who has read the texts: served name or LoRA adapter.")
    layers: list[int] = Field(
        description="Those that were asked for, in that order, counted from 0: the first axis of "
        "`states`."
    )
    attention_layers: list[int] | None = Field(
        default=None, description="Likewise, of the weights; absent if there are none."
    )
    data: list[HiddenStatesResult] = Field(description="One result a text.")
    usage: ScoreUsage
