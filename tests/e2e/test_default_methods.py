"""A server of a conf-server.yaml, whose answers with confidence carry estimates by default."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.server import Server

METHODS = ["mean_token_entropy", "rauq", "p_true"]
CHAT: dict[str, Any] = {
    "messages": [{"role": "user", "content": "What is the capital of France?"}],
    "max_tokens": 12,
    "temperature": 0,
}


@pytest.fixture(scope="module")
def server(model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("default-methods")
    file = folder / "conf-server.yaml"
    file.write_text(
        f"generator: {{model: {model_path}, max_model_len: 512, served_model_name: smol}}\n"
        "scorer: {type: [entropy, rauq, p_true]}\n"
        "confidence: {mode: stats}\n"
    )
    with Server(model_path, [f"--config={file}"], folder / "log") as server:
        yield server


@pytest.fixture(scope="module")
def judged(server: Server) -> dict[str, float]:
    """What /v1/uncertainty says of the same answer, which names no methods either."""
    body = {"messages": CHAT["messages"], "max_tokens": CHAT["max_tokens"]}
    estimates = answered(server, "/v1/uncertainty", body)["estimates"]
    assert list(estimates) == METHODS
    return {name: found["value"] for name, found in estimates.items()}


def answered(server: Server, path: str, body: dict[str, Any]) -> dict[str, Any]:
    response = server.post(path, body)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def values(estimates: dict[str, Any]) -> dict[str, float]:
    assert list(estimates) == METHODS
    assert all(found["exact"] for found in estimates.values())
    return {name: found["value"] for name, found in estimates.items()}


@pytest.mark.parametrize("mode", ["stats", "summary", "per_token"])
def test_an_answer_carries_them(server: Server, judged: dict[str, float], mode: str) -> None:
    body = {**CHAT, "logprobs": True, "top_logprobs": 2, "confidence": {"mode": mode}}
    (choice,) = answered(server, "/v1/chat/completions", body)["choices"]
    assert values(choice["logprobs"]["uncertainty"]) == pytest.approx(judged, abs=1e-3)
    assert len(choice["logprobs"]["content"]) == (0 if mode == "stats" else 8)


@pytest.mark.parametrize("mode", ["stats", "per_token"])
def test_a_stream_carries_them_in_its_last_chunk(
    server: Server, judged: dict[str, float], mode: str
) -> None:
    stream = server.client().chat.completions.create(
        model="smol",
        stream=True,
        logprobs=True,
        top_logprobs=2,
        extra_body={"confidence": {"mode": mode}},
        **CHAT,
    )
    choices = [choice for chunk in stream for choice in chunk.choices]
    (last,) = (choice for choice in choices if choice.finish_reason)
    told: Any = last.logprobs
    assert values(told.uncertainty) == pytest.approx(judged, abs=1e-3)
    delta: Any = last.delta
    assert delta.uncertainty == told.uncertainty
    tokens = sum(len(choice.logprobs.content) for choice in choices if choice.logprobs)
    assert tokens == (0 if mode == "stats" else 8)


@pytest.mark.parametrize("stream", [False, True])
def test_each_answer_to_each_prompt_has_its_own(server: Server, stream: bool) -> None:
    body = {"prompt": ["The capital of France is", "1 2 3"], "max_tokens": 4, "logprobs": 1}
    given = {**body, "n": 2, "seed": 1, "temperature": 1.0, "stream": stream}
    client = server.client().completions
    made: Any = client.create(model="smol", **given)
    chunks = list(made) if stream else [made]
    ended = [c for chunk in chunks for c in chunk.choices if c.finish_reason]
    assert sorted(choice.index for choice in ended) == [0, 1, 2, 3]
    rauq = [values(choice.logprobs.uncertainty)["rauq"] for choice in ended]
    assert len({round(value, 4) for value in rauq}) == 4


def test_what_a_request_names_counts_alone(server: Server) -> None:
    body = {**CHAT, "confidence": {"metrics": ["perplexity"]}}
    (choice,) = answered(server, "/v1/chat/completions", body)["choices"]
    assert list(choice["logprobs"]["uncertainty"]) == ["perplexity"]
    (plain,) = answered(server, "/v1/chat/completions", CHAT)["choices"]
    assert plain["logprobs"] is None


def test_a_prompt_with_tools_in_it_is_not_judged_as_another(server: Server) -> None:
    tool = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}
    body = {**CHAT, "tools": [tool], "tool_choice": "none", "logprobs": True}
    (choice,) = answered(server, "/v1/chat/completions", body)["choices"]
    found = choice["logprobs"]["uncertainty"]
    assert found["mean_token_entropy"]["exact"]
    assert (found["rauq"]["value"], found["rauq"]["exact"]) == (None, False)
    assert "`tools`" in found["rauq"]["reason"]
