"""POST /v1/hidden_states on a real server, against transformers in float32."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load

from tests.reference import Reference
from tests.server import Server

LAYERS = [0, 15, 30]
TEXT = "The quick brown fox jumps over the lazy dog, and the dog does not mind."
CHAT = [{"role": "user", "content": "What is the capital of France?"}]


def expected(reference: Reference, ids: list[int]) -> NDArray[np.float32]:
    return reference.hidden_states(ids, LAYERS, 0)


def read(server: Server, **body: Any) -> list[NDArray[np.float32]]:
    response = server.post("/v1/hidden_states", {"layers": LAYERS, **body})
    assert response.status_code == 200, response.text
    return [
        np.frombuffer(base64.b64decode(result["states"]), "<f4").reshape(result["shape"])
        for result in response.json()["data"]
    ]


def assert_close(found: NDArray[np.float32], right: NDArray[np.float32]) -> None:
    scale = np.abs(right).max(axis=(1, 2), keepdims=True)
    np.testing.assert_allclose(found / scale, right / scale, rtol=0, atol=1e-4)


def test_a_text(server: Server, reference: Reference) -> None:
    right = expected(reference, reference.tokenizer.encode(TEXT))
    (tokens,) = read(server, prompt=TEXT, pooling="none")
    assert_close(tokens, right)
    (mean,) = read(server, prompt=TEXT)
    assert_close(mean, right.mean(1, keepdims=True))
    (last,) = read(server, prompt=TEXT, pooling="last")
    assert_close(last, right[:, -1:])


def test_completions_of_a_chat(server: Server, reference: Reference) -> None:
    context = reference.tokenizer.apply_chat_template(
        CHAT, add_generation_prompt=True, return_dict=False
    )
    texts = ["Paris is the capital of France.", "It is Rome."]
    found = read(server, messages=CHAT, completions=texts, tokens="completion")
    for text, states in zip(texts, found, strict=True):
        ids = reference.tokenizer.encode(text, add_special_tokens=False)
        right = expected(reference, [*context, *ids])[:, len(context) :]
        assert_close(states, right.mean(1, keepdims=True))


def test_a_file(server: Server, reference: Reference) -> None:
    body = {"prompt": TEXT, "layers": LAYERS, "encoding_format": "safetensors"}
    response = server.post("/v1/hidden_states", body)
    assert response.headers["content-type"] == "application/octet-stream"
    right = expected(reference, reference.tokenizer.encode(TEXT))
    assert_close(load(response.content)["states.0"], right.mean(1, keepdims=True))


@pytest.mark.parametrize("field", ["layers.0", "prompt"])
def test_bad_input_is_named(server: Server, field: str) -> None:
    wrong = {"layers.0": {"prompt": TEXT, "layers": [31]}, "prompt": {"prompt": [10**6]}}
    response = server.post("/v1/hidden_states", wrong[field])
    assert response.status_code == 400
    assert response.json()["error"]["param"] == field
