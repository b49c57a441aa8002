"""The body of an answer of /v1/hidden_states: JSON, or a safetensors file."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic_core import to_json

from conf_server.serving.hidden_states_protocol import HiddenStatesRequest, HiddenStatesResponse
from conf_server.stats.forced import ForcedStates

_AsJson = Callable[[NDArray[np.float32]], bytes]


def encode(
    answer: HiddenStatesResponse,
    request: HiddenStatesRequest,
    found: Sequence[ForcedStates],
    counts: Sequence[int],
) -> bytes:
    """The answer's body, with the states and weights in it as the request wants them.

    Args:
        answer: without its `data`.
        counts: of each text's tokens that count.
    """
    if request.encoding_format == "safetensors":
        return _as_file(answer, request, found, counts)
    return _as_json(answer, request, found, counts)


def _as_json(
    answer: HiddenStatesResponse,
    request: HiddenStatesRequest,
    found: Sequence[ForcedStates],
    counts: Sequence[int],
) -> bytes:
    """A `HiddenStatesResponse`, piece by piece: pydantic would make all of it in one call, and
    hold up the server's other requests for as long as that takes.
    """
    as_json = _as_base64 if request.encoding_format == "base64" else _as_lists
    results = [
        b'{"index":%d,"num_tokens":%d,"shape":%b,"states":%b%b}'
        % (
            index,
            num_tokens,
            to_json(forced.states.shape),
            as_json(forced.states),
            _attention_as_json(forced, as_json),
        )
        for index, (forced, num_tokens) in enumerate(zip(found, counts, strict=True))
    ]
    # It stands there once, whatever the model's name is: quotes within strings are escaped.
    before, _, after = answer.model_dump_json(exclude_unset=True).encode().partition(b'"data":[]')
    return b"".join([before, b'"data":[', b",".join(results), b"]", after])


def _attention_as_json(forced: ForcedStates, as_json: _AsJson) -> bytes:
    """The field `attention` with the comma before it; nothing where nobody wants it."""
    parts = [
        b'"%b":{"shape":%b,"values":%b}' % (name.encode(), to_json(one.shape), as_json(one))
        for name, one in _named_weights(forced)
    ]
    return b',"attention":{%b}' % b",".join(parts) if parts else b""


def _named_weights(forced: ForcedStates) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """The weights that a text has, by the names that they have in an answer."""
    attention = forced.attention
    if attention is not None:
        named = {
            "weights": attention.weights,
            "context_mass": attention.context_mass,
            "last_token": attention.last,
        }
        yield from ((name, one) for name, one in named.items() if one is not None)


def _as_file(
    answer: HiddenStatesResponse,
    request: HiddenStatesRequest,
    found: Sequence[ForcedStates],
    counts: Sequence[int],
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
        "num_tokens": list(counts),
    }
    if answer.attention_layers is not None:
        facts["attention_layers"] = answer.attention_layers
    tensors = {}
    for index, forced in enumerate(found):
        tensors[f"states.{index}"] = _little_endian(forced.states)
        for name, one in _named_weights(forced):
            tensors[f"attention.{name}.{index}"] = _little_endian(one)
    return save(tensors, {name: json.dumps(fact) for name, fact in facts.items()})


def _little_endian(tensor: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.ascontiguousarray(tensor, np.dtype("<f4"))


def _as_base64(tensor: NDArray[np.float32]) -> bytes:
    return b'"%b"' % base64.b64encode(_little_endian(tensor).data)


def _as_lists(tensor: NDArray[np.float32]) -> bytes:
    if tensor.ndim == 1 or not tensor.size:
        return to_json(tensor.tolist(), inf_nan_mode="null")
    return b"[%b]" % b",".join(map(_as_lists, tensor))
