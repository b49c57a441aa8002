"""/v1/think/chat/completions of the small server: each trace is a stream of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from httpx import Response

from conf_server.backends.dummy import DummyBackend
from conf_server.small_server.generation_answers import ThinkAnswer
from tests.unit.small_server.conftest import MESSAGES, Server, answered, error_of, events

PATH = "/v1/think/chat/completions"
NONE = {"calibrate": "none", "consensus": {"rule": "none"}, "answer": {"extract": "text"}}


def think(server: Server, options: dict[str, Any], **fields: Any) -> Response:
    return server.client.post(PATH, json={"messages": MESSAGES, "think": options, **fields})


def test_traces_are_asked_for_and_counted(server: Server) -> None:
    answer = answered(think(server, NONE | {"budget": 3}, seed=5, temperature=0.3))
    ThinkAnswer.model_validate(answer)
    assert answer["id"].startswith("think-")
    asked = [ask for kind, _, ask in server.backend.asked if kind == "stream"]
    assert [ask.options["seed"] for ask in asked] == [5, 6, 7]
    assert {(ask.n, ask.temperature, ask.max_tokens) for ask in asked} == {(1, 0.3, 9)}
    assert answer["choices"][0]["message"]["content"] == "I am number 0"
    assert answer["usage"] == {"prompt_tokens": 3, "completion_tokens": 12, "total_tokens": 15}
    (group,) = answer["think"]["groups"]
    assert group["traces"] == [0, 1, 2]
    metrics = server.client.get("/metrics").text
    assert "conf_server_prompt_tokens_total 3.0" in metrics
    assert "conf_server_generated_tokens_total 12.0" in metrics


def test_a_trace_that_is_not_sure_enough_is_stopped(server: Server) -> None:
    options = NONE | {"calibrate": "fixed", "below": 2.0, "window": 2, "budget": 1}
    (trace,) = answered(think(server, options))["think"]["traces"]
    assert (trace["status"], trace["num_tokens"]) == ("stopped_low_confidence", 2)
    assert trace["min_conf"] == 1.0  # every word of this model has this confidence


def test_what_still_runs_is_ended(make_server: Callable[..., Server]) -> None:
    lengths = iter([1, 40, 40])
    server = make_server(DummyBackend(lambda prompt, number: "a " * next(lengths) + "."))
    options = NONE | {"budget": 3, "consensus": {"rule": "weighted_share", "min_finished": 1}}
    options |= {"concurrency": 3}
    answer = answered(think(server, options))
    first, *others = answer["think"]["traces"]
    assert answer["think"]["stopped_by"] == "consensus"
    assert first["status"] == "finished"
    for trace in others:
        assert trace["status"] == "cancelled"
        assert trace["num_tokens"] < 41
    told = sum(trace["num_tokens"] for trace in answer["think"]["traces"])
    assert answer["usage"]["completion_tokens"] == told


def test_a_stream(server: Server) -> None:
    options = NONE | {"budget": 2, "window": 2, "concurrency": 1}
    chunks = events(think(server, options, stream=True, stream_options={"include_usage": True}))
    kinds = [chunk["think"]["type"] for chunk in chunks if "think" in chunk]
    trace = ["trace.started", "trace.window", "trace.window", "trace.ended"]
    assert kinds == [*trace, *trace, "vote"]
    assert [
        chunk["choices"][0]["delta"].get("content") for chunk in chunks if chunk["choices"]
    ] == [
        "",
        "I am number 0",
    ]
    assert chunks[-1]["usage"]["completion_tokens"] == 8


def test_the_answer_carries_what_was_asked_for(server: Server) -> None:
    fields = {"logprobs": True, "top_logprobs": 1, "confidence": {"metrics": ["perplexity"]}}
    answer = answered(think(server, NONE | {"budget": 2, "traces": "none"}, **fields))
    (choice,) = answer["choices"]
    assert len(choice["logprobs"]["content"]) == 4
    assert choice["logprobs"]["uncertainty"]["perplexity"]["exact"] is True
    assert "traces" not in answer["think"]


@pytest.mark.parametrize(
    ("options", "fields", "field"),
    [
        ({}, {"n": 2}, "n"),
        ({"budget": 1000}, {}, "think.budget"),
        ({"answer": {"extract": "regex", "pattern": "("}}, {}, "think.answer.pattern"),
        ({}, {"confidence": {"mode": "empty"}}, "confidence.mode"),
        ({}, {"tools": [{"type": "function"}]}, "tools"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(
    server: Server, options: dict[str, Any], fields: dict[str, Any], field: str
) -> None:
    for stream in (False, True):
        response = think(server, NONE | options, stream=stream, **fields)
        assert error_of(response)["param"] == field
    assert not [kind for kind, *_ in server.backend.asked if kind == "stream"]
    assert "conf_server_prompt_tokens_total 0.0" in server.client.get("/metrics").text
