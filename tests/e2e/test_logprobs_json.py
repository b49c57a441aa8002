"""The JSON that our routes join from ready-made parts, against what vLLM makes of objects.

/invocations takes the same requests to the same handlers, but past our routes: its answers are
pydantic's.
"""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from tests.server import Server

CHAT = {
    "model": "smol",
    "messages": [{"role": "user", "content": 'Repeat exactly: 😀 "quotes" \\ 名前'}],
    "max_tokens": 12,
    "temperature": 0,
}
COMPLETION = {
    "model": "smol",
    "prompt": ["The capital of France is", "😀 名前 😀 名前 😀"],
    "max_tokens": 12,
    "temperature": 0,
}
METRICS = {"mode": "per_token", "metrics": ["perplexity", "mean_token_entropy"]}


def same(ours: Any, other: Any) -> bool:
    """Equality of JSON, up to what batching changes in the last digits of numbers."""
    if isinstance(other, dict):
        return ours.keys() == other.keys() and all(same(ours[k], other[k]) for k in other)
    if isinstance(other, list):
        return len(ours) == len(other) and all(map(same, ours, other))
    return ours == (pytest.approx(other, abs=1e-4) if isinstance(other, float) else other)


@pytest.mark.only_vllm("/invocations")
@pytest.mark.parametrize(
    "fields",
    [
        {"top_logprobs": 5},
        {"top_logprobs": 0},
        {"top_logprobs": 3, "return_tokens_as_token_ids": True},
        {"top_logprobs": 2, "confidence": METRICS},
        {"confidence": {"mode": "summary"}},
        {"top_logprobs": 2, "logprob_token_ids": [5, 6, 7]},
        {"top_logprobs": 2, "n": 3, "temperature": 1.0, "seed": 7},
    ],
    ids=str,
)
def test_chat(server: Server, fields: dict[str, Any]) -> None:
    body = CHAT | {"logprobs": True} | fields
    ours, other = (server.post(path, body) for path in ("/v1/chat/completions", "/invocations"))
    assert ours.headers["content-length"] == str(len(ours.content))
    assert same(ours.json()["choices"], other.json()["choices"])
    if "logprob_token_ids" not in fields:  # which is vLLM's own on both routes
        assert members(ours) == ["token", "bytes", "logprob"]
    assert members(other) == ["token", "logprob", "bytes"]


def members(answer: httpx.Response) -> list[str]:
    """The first members of an entry, in their order: it tells who has written them."""
    return list(answer.json()["choices"][0]["logprobs"]["content"][0])[:3]


@pytest.mark.only_vllm("/invocations")
@pytest.mark.parametrize(
    "fields",
    [
        {"logprobs": 4},
        {"logprobs": 0},
        {"logprobs": 3, "return_tokens_as_token_ids": True},
        {"logprobs": 2, "confidence": METRICS},
        {"logprobs": 2, "confidence": {"mode": "summary"}},
        {"logprobs": 2, "echo": True},
    ],
    ids=str,
)
def test_completions(server: Server, fields: dict[str, Any]) -> None:
    ours, other = (
        server.post(path, COMPLETION | fields) for path in ("/v1/completions", "/invocations")
    )
    assert same(ours.json()["choices"], other.json()["choices"])


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_streams_have_the_entries_of_the_whole_answer(server: Server, path: str) -> None:
    fields = {"logprobs": True, "top_logprobs": 3} if "chat" in path else {"logprobs": 3}
    body = (CHAT if "chat" in path else COMPLETION) | fields
    whole = [choice["logprobs"] for choice in server.post(path, body).json()["choices"]]
    streamed: list[dict[str, Any]] = [{} for _ in whole]
    events = server.post(path, body | {"stream": True}).text.split("\n\n")
    for event in events:
        if not event or event == "data: [DONE]":
            continue
        for choice in json.loads(event.removeprefix("data: "))["choices"]:
            for name, value in (choice["logprobs"] or {}).items():
                streamed[choice["index"]].setdefault(name, type(value)())
                if isinstance(value, list):
                    streamed[choice["index"]][name] += value
                else:
                    streamed[choice["index"]][name] = value
    assert same(streamed, whole)
