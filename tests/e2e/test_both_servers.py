"""The server without vLLM answers what the server with vLLM answers: the same JSON and numbers.

Answers are greedy. Members that only vLLM has are null in its answers, and numbers differ by the
rounding of two implementations of the model.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.server import Server

CHAT = {
    "messages": [{"role": "user", "content": 'Repeat exactly: 😀 "quotes" \\ 名前'}],
    "max_tokens": 12,
    "temperature": 0,
}
COMPLETION = {
    "prompt": ["The capital of France is", "😀 名前 😀 名前 😀"],
    "max_tokens": 8,
    "temperature": 0,
}
METRICS = ["perplexity", "mean_token_entropy", "self_certainty", "fisher_rao"]
UNLIKE = {
    *("id", "created", "root", "timings", "prompt_tokens_details", "system_fingerprint"),
    *("owned_by", "permission"),
}
"""Members that are of another moment, another server, or a prefix cache."""


def answers(ours: Server, theirs: Server, path: str, body: Any) -> tuple[Any, Any]:
    """Of the two servers."""
    found = []
    for server in (ours, theirs):
        response = server.post(path, body)
        assert response.status_code == 200, response.text
        is_stream = response.headers["content-type"].startswith("text/event-stream")
        found.append(parts(response.text) if is_stream else response.json())
    return found[0], found[1]


def parts(stream: str) -> list[Any]:
    """What the chunks of a stream say of its first choice, put together."""
    *chunks, done, _ = stream.split("\n\n")
    assert done == "data: [DONE]"
    read = [json.loads(chunk.removeprefix("data: ")) for chunk in chunks]
    choices = [chunk["choices"][0] for chunk in read if chunk["choices"]]
    told = [choice["logprobs"] for choice in choices if choice.get("logprobs")]
    return [
        "".join(choice["delta"].get("content") or "" for choice in choices),
        [entry for logprobs in told for entry in logprobs["content"]],
        {name: value for name, value in told[-1].items() if name != "content"},
        {k: v for k, v in choices[-1]["delta"].items() if k not in ("content", "reasoning")},
        choices[-1]["finish_reason"],
        [chunk["usage"] for chunk in read if chunk.get("usage")],
    ]


def differences(ours: Any, theirs: Any, path: str = "") -> list[str]:
    """Where the two answers are not alike."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        wanted = {name for name, value in theirs.items() if value is not None} | set(ours)
        return [
            found
            for name in sorted(wanted - UNLIKE)
            for found in differences(ours.get(name), theirs.get(name), f"{path}.{name}")
        ]
    if isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        pairs = enumerate(zip(ours, theirs, strict=True))
        return [d for i, (a, b) in pairs for d in differences(a, b, f"{path}.{i}")]
    if isinstance(theirs, float) and ours == pytest.approx(theirs, abs=2e-3, rel=2e-3):
        return []
    return [] if ours == theirs else [f"{path}: {ours!r}, with vLLM {theirs!r}"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", CHAT),
        ("/v1/chat/completions", CHAT | {"logprobs": True, "top_logprobs": 3}),
        *(
            ("/v1/chat/completions", CHAT | {"confidence": {"mode": mode, "metrics": METRICS}})
            for mode in ("per_token", "summary", "stats", "empty")
        ),
        ("/v1/chat/completions", CHAT | {"stop": ["quotes"], "confidence": {"mode": "stats"}}),
        ("/v1/completions", COMPLETION),
        *(
            ("/v1/completions", COMPLETION | {"logprobs": 2, "confidence": {"mode": mode}})
            for mode in ("per_token", "summary", "stats", "empty")
        ),
        (
            "/v1/score",
            {
                "prompt": "The capital of France is",
                "completions": [" Paris", " London", " 😀"],
                "mode": "per_token",
                "top_logprobs": 3,
                "metrics": METRICS,
            },
        ),
        (
            "/v1/score",
            {"messages": CHAT["messages"], "completion": {"text": "Hi", "finished": True}},
        ),
        (
            "/v1/uncertainty",
            {"messages": CHAT["messages"], "uncertainty": {"methods": ["fast"]}, "max_tokens": 8},
        ),
        *(
            (
                "/v1/think/chat/completions",
                CHAT
                | {
                    "max_tokens": 24,
                    "think": {"budget": 2, "calibrate": "fixed", "window": 4}
                    | {"below": below, "answer": {"extract": "text"}},
                },
            )
            for below in (0.0, 99.0)  # no trace is ended, and each
        ),
    ],
    ids=lambda part: part if isinstance(part, str) else "",
)
def test_answers_are_alike(
    transformers_server: Server, vllm_server: Server, path: str, body: dict[str, Any]
) -> None:
    ours, theirs = answers(transformers_server, vllm_server, path, body)
    assert not differences(ours, theirs)


@pytest.mark.parametrize("mode", ["per_token", "summary", "stats"])
def test_streams_are_alike(transformers_server: Server, vllm_server: Server, mode: str) -> None:
    confidence = {"mode": mode, "metrics": METRICS}
    body = CHAT | {"stream": True, "stream_options": {"include_usage": True}}
    body |= {"logprobs": True, "top_logprobs": 2, "confidence": confidence}
    ours, theirs = answers(transformers_server, vllm_server, "/v1/chat/completions", body)
    assert not differences(ours, theirs)


def test_methods_and_models_are_alike(transformers_server: Server, vllm_server: Server) -> None:
    for path in ("/v1/uncertainty/methods", "/v1/models/smol"):
        found = []
        for server in (transformers_server, vllm_server):
            with server.http() as http:
                found.append(http.get(path).json())
        assert not differences(*found)
