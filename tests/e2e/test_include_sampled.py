"""`confidence.include_sampled`: the sampled token counts beside the likeliest."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.server import Server

TOP_K = 4
SAMPLED = {"temperature": 1.5, "seed": 5, "max_tokens": 16, "ignore_eos": True}
CHAT = {"messages": [{"role": "user", "content": "Tell me a story."}], "logprobs": True}
BODIES = {
    "/v1/chat/completions": CHAT | SAMPLED | {"n": 2},
    "/v1/completions": {"prompt": ["The sea", "A rock"], "logprobs": 0} | SAMPLED,
}


def choices(server: Server, path: str, **confidence: Any) -> list[dict[str, Any]]:
    """`logprobs` of each answer."""
    options = {"mode": "summary", "top_k": TOP_K, **confidence}
    answer = server.post(path, BODIES[path] | {"confidence": options})
    assert answer.status_code == 200, answer.text
    found = sorted(answer.json()["choices"], key=lambda choice: choice["index"])
    return [choice["logprobs"] for choice in found]


def tokens(logprobs: dict[str, Any]) -> list[tuple[float, float]]:
    """Log-probability and confidence of each token."""
    if "content" in logprobs:
        return [(entry["logprob"], entry["confidence"]) for entry in logprobs["content"]]
    return list(zip(logprobs["token_logprobs"], logprobs["confidence"], strict=True))


def counted(logprob: float, confidence: float) -> float:
    return (TOP_K * confidence - logprob) / (TOP_K + 1)


@pytest.mark.parametrize("path", BODIES)
def test_tokens_and_summary(server: Server, path: str) -> None:
    without, with_it = choices(server, path), choices(server, path, include_sampled=True)
    assert len(without) == len(with_it) == 2
    for before, after in zip(without, with_it, strict=True):
        found = [confidence for _, confidence in tokens(after)]
        assert found == pytest.approx([counted(*token) for token in tokens(before)], abs=1e-4)
        mean = after["confidence_summary"]["mean_confidence"]
        assert mean == pytest.approx(sum(found) / len(found), abs=1e-4)
        assert abs(mean - before["confidence_summary"]["mean_confidence"]) > 1e-3
    (stats, _) = choices(server, path, include_sampled=True, mode="stats")
    summary = with_it[0]["confidence_summary"]
    assert stats["confidence_summary"] == pytest.approx(summary, abs=1e-4)


def test_false_is_the_default(server: Server) -> None:
    path = "/v1/chat/completions"
    (told, *_), (untold, *_) = choices(server, path, include_sampled=False), choices(server, path)
    assert tokens(told) == [pytest.approx(token, abs=1e-4) for token in tokens(untold)]


def test_a_stream(server: Server) -> None:
    path = "/v1/chat/completions"
    confidence = {"mode": "stats", "top_k": TOP_K, "include_sampled": True}
    body = BODIES[path] | {"n": 1, "stream": True, "confidence": confidence}
    events = server.post(path, body).text.split("\n\n")
    *_, last = [json.loads(event[6:]) for event in events if '"confidence_summary"' in event]
    (whole, *_) = choices(server, path, include_sampled=True, mode="stats")
    found = last["choices"][0]["logprobs"]["confidence_summary"]
    assert found == pytest.approx(whole["confidence_summary"], abs=1e-4)


@pytest.mark.only_vllm("/v1/responses")
def test_responses(server: Server) -> None:
    body = {"input": "Two plus two?", "temperature": 0, "max_output_tokens": 8}
    parts = []
    for include in (False, True):
        confidence = {"mode": "summary", "top_k": TOP_K, "include_sampled": include}
        answer = server.post("/v1/responses", body | {"confidence": confidence})
        assert answer.status_code == 200, answer.text
        parts.append(answer.json()["output"][0]["content"][0])
    before, after = ([(e["logprob"], e["confidence"]) for e in p["logprobs"]] for p in parts)
    expected = [counted(*token) for token in before]
    assert [confidence for _, confidence in after] == pytest.approx(expected, abs=1e-4)


def refused(server: Server, path: str, body: dict[str, Any]) -> tuple[str, str]:
    """The field that is to blame, and why."""
    answer = server.post(path, body)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    return error["param"].removeprefix("body."), error["message"]


INCLUDED = {"include_sampled": True}


def test_an_early_stop_goes_by_the_likeliest_alone(server: Server) -> None:
    confidence = INCLUDED | {"early_stop": {"below": 1.0, "window": 4}}
    found, _ = refused(server, "/v1/chat/completions", CHAT | {"confidence": confidence})
    assert found == "confidence.include_sampled"


@pytest.mark.only_vllm("grammars")
@pytest.mark.parametrize("stream", [False, True])
def test_a_grammar_leaves_the_sampled_token_another_probability(
    server: Server, stream: bool
) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    form = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    body = CHAT | {"confidence": INCLUDED, "response_format": form, "stream": stream}
    found, why = refused(server, "/v1/chat/completions", body)
    assert found == "confidence.include_sampled"
    assert "grammar" in why


def test_a_score_has_no_sampled_token(server: Server) -> None:
    body = {"prompt": "a", "completion": " b", "confidence": INCLUDED}
    found, _ = refused(server, "/v1/score", body)
    assert found == "confidence.include_sampled"
