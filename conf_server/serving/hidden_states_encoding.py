"""The body of an answer of /v1/hidden_states: JSON, or a safetensors file."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic_core import to_json

from conf_server.serving.hidden_states_protocol import (
    AttentionOptions,
    HiddenStatesRequest,
    HiddenStatesResponse,
)
from conf_server.stats.forced import ForcedAttention, ForcedStates
from conf_server.stats.lookback import lookback_ratios

_AsJson = Callable[[NDArray[np.float32]], bytes]


def encode(
    answer: HiddenStatesResponse,
    request: HiddenStatesRequest,
    found: Sequence[ForcedStates],
    counts: Sequence[int],
    contexts: Sequence[int],
) -> bytes:
    """The answer's body, with the states and weights in it as the request wants them.

    Args:
        answer: without its `data`.
        counts: of each text's tokens that count.
        contexts: of the tokens that stand before each completion.
    """
    texts = [
        _Text(one.states, num_tokens, _weights(one.attention, request.attention, num_context))
        for one, num_tokens, num_context in zip(found, counts, contexts, strict=True)
    ]
    if request.encoding_format == "safetensors":
        return _as_file(answer, request, texts)
    return _as_json(answer, request, texts)


@dataclass(frozen=True)
class _Text:
    """What an answer holds of one text.

    Attributes:
        num_tokens: that count.
        weights: of its attention, by the names that they have in an answer.
    """

    states: NDArray[np.float32]
    num_tokens: int
    weights: Mapping[str, NDArray[np.float32]]


def _weights(
    attention: ForcedAttention | None, asked: AttentionOptions | None, num_context: int
) -> Mapping[str, NDArray[np.float32]]:
    if attention is None or asked is None:
        return {}
    named: dict[str, NDArray[Any]] = {"weights": attention.weights}
    if attention.context_mass is not None:
        if asked.context_mass:
            named["context_mass"] = attention.context_mass
        if asked.lookback:
            named["lookback"] = lookback_ratios(attention.context_mass, num_context)
    if attention.last is not None:
        named["last_token"] = attention.last
    return named


def _as_json(
    answer: HiddenStatesResponse,
    request: HiddenStatesRequest,
    texts: Sequence[_Text],
) -> bytes:
    """A `HiddenStatesResponse`, piece by piece: pydantic would make all of it in one call, and
    hold up the server's other requests for as long as that takes.
    """
    as_json = _as_base64 if request.encoding_format == "base64" else _as_lists
    results = [
        b'{"index":%d,"num_tokens":%d,"shape":%b,"states":%b%b}'
        % (
            index,
            text.num_tokens,
            to_json(text.states.shape),
            as_json(text.states),
            _attention_as_json(text.weights, as_json),
        )
        for index, text in enumerate(texts)
    ]
    # It stands there once, whatever the model's name is: quotes within strings are escaped.
    before, _, after = answer.model_dump_json(exclude_unset=True).encode().partition(b'"data":[]')
    return b"".join([before, b'"data":[', b",".join(results), b"]", after])


def _attention_as_json(weights: Mapping[str, NDArray[np.float32]], as_json: _AsJson) -> bytes:
    """The field `attention` with the comma before it; nothing where nobody wants it."""
    parts = [
        b'"%b":{"shape":%b,"values":%b}' % (name.encode(), to_json(one.shape), as_json(one))
        for name, one in weights.items()
    ]
    return b',"attention":{%b}' % b",".join(parts) if parts else b""


def _as_file(
    answer: HiddenStatesResponse,
    request: HiddenStatesRequest,
    texts: Sequence[_Text],
) -> bytes:
    """Of each text the tensor `states.INDEX`, and those of its attention weights.

    The format's metadata are strings, here of JSON.
    """
    from safetensors.numpy import save

    facts = {
        "id": answer.id,
        "model": answer.model,
        "layers": answer.layers,
        "pooling": request.pooling,
        "num_tokens": [text.num_tokens for text in texts],
    }
    if answer.attention_layers is not None:
        facts["attention_layers"] = answer.attention_layers
    tensors = {}
    for index, text in enumerate(texts):
        tensors[f"states.{index}"] = _little_endian(text.states)
        for name, one in text.weights.items():
            tensors[f"attention.{name}.{index}"] = _little_endian(one)
    return save(tensors, {name: json.dumps(fact) for name, fact in facts.items()})


def _little_endian(tensor: NDArray[Any]) -> NDArray[np.float32]:
    return np.ascontiguousarray(tensor, np.dtype("<f4"))


def _as_base64(tensor: NDArray[np.float32]) -> bytes:
    return b'"%b"' % base64.b64encode(_little_endian(tensor).data)


def _as_lists(tensor: NDArray[np.float32]) -> bytes:
    if tensor.ndim == 1 or not tensor.size:
        return to_json(tensor.tolist(), inf_nan_mode="null")
    return b"[%b]" % b",".join(map(_as_lists, tensor))
