"""/v1/think/chat/completions: many traces of one question, and their vote."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import openai
import pytest

from tests.server import Server

PATH = "/v1/think/chat/completions"
QUESTION = "Is 3 + 4 equal to 7? Answer yes or no."
CHOICE = {"extract": "choice", "choices": ["yes", "no"]}
BODY = {
    "model": "smol",
    "messages": [{"role": "user", "content": QUESTION}],
    "max_tokens": 24,
    "temperature": 1.0,
    "seed": 11,
}


def body(think: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return BODY | {"think": {"answer": CHOICE, "consensus": {"rule": "none"}, **think}} | fields


def thought(server: Server, think: dict[str, Any], **fields: Any) -> dict[str, Any]:
    response = server.post(PATH, body(think, **fields))
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def chat(server: Server, seed: int, **fields: Any) -> dict[str, Any]:
    """One trace, as a chat of its own."""
    request = BODY | {"seed": seed, "logprobs": True, "confidence": {"mode": "summary"}} | fields
    response = server.post("/v1/chat/completions", request)
    assert response.status_code == 200, response.text
    choice: dict[str, Any] = response.json()["choices"][0]
    return choice


def confidences(choice: dict[str, Any]) -> list[float]:
    return [token["confidence"] for token in choice["logprobs"]["content"]]


def windows(values: list[float], window: int) -> np.ndarray:
    if len(values) < window:
        return np.array([np.mean(values)])
    return np.lib.stride_tricks.sliding_window_view(np.array(values), window).mean(axis=1)


def test_every_trace_is_the_chat_of_its_seed(server: Server) -> None:
    answer = thought(server, {"budget": 3, "calibrate": "none", "window": 4, "traces": "full"})
    traces = answer["think"]["traces"]
    alone = [chat(server, 11 + index) for index in range(3)]
    assert [trace["text"] for trace in traces] == [one["message"]["content"] for one in alone]
    for trace, one in zip(traces, alone, strict=True):
        values = confidences(one)
        assert trace["num_tokens"] == len(values)
        assert trace["mean_conf"] == pytest.approx(np.mean(values), rel=1e-5)
        assert trace["tail_conf"] == pytest.approx(np.mean(values[-4:]), rel=1e-5)
        assert trace["min_conf"] == pytest.approx(windows(values, 4).min(), rel=1e-5)
        assert trace["status"] == ("finished" if one["finish_reason"] == "stop" else "length")
    generated = sum(trace["num_tokens"] for trace in traces)
    assert answer["usage"]["completion_tokens"] == generated
    assert answer["usage"]["total_tokens"] == generated + answer["usage"]["prompt_tokens"]
    assert answer["think"]["usage"] == {"warmup_tokens": 0, "final_tokens": generated}


def test_the_votes_are_those_of_the_traces(vllm_server: Server) -> None:
    answer = thought(vllm_server, {"budget": 8, "calibrate": "none", "window": 4})
    think = answer["think"]
    voters = [trace for trace in think["traces"] if trace["voted"]]
    assert [trace["answer"] is not None for trace in think["traces"]] == [
        trace["voted"] for trace in think["traces"]
    ]
    weights: dict[str, float] = {}
    for trace in voters:
        weights[trace["answer"]] = weights.get(trace["answer"], 0.0) + trace["min_conf"]
    winner = max(weights, key=weights.__getitem__)
    assert think["answer"] == winner
    assert {group["answer"]: group["weight"] for group in think["groups"]} == pytest.approx(weights)
    heaviest = max(
        (trace for trace in voters if trace["answer"] == winner), key=lambda t: t["min_conf"]
    )
    chosen = chat(vllm_server, 11 + heaviest["index"])
    (choice,) = answer["choices"]
    assert choice["message"]["content"] == chosen["message"]["content"]
    assert choice["finish_reason"] == chosen["finish_reason"]
    assert choice["logprobs"]["confidence_summary"] == pytest.approx(
        chosen["logprobs"]["confidence_summary"]
    )


def test_the_warm_up_ends_unsure_traces(server: Server) -> None:
    think = {"budget": 7, "warmup": 3, "window": 4, "keep_top": 0.4, "min_voters": 1}
    answer = thought(server, think)["think"]
    warm, final = answer["traces"][:3], answer["traces"][3:]
    threshold = answer["threshold"]
    assert threshold == pytest.approx(np.percentile([trace["min_conf"] for trace in warm], 60))
    assert {trace["phase"] for trace in warm} == {"warmup"}
    stopped = [trace for trace in final if trace["status"] == "stopped_low_confidence"]
    assert stopped
    for trace in final:
        values = confidences(chat(server, 11 + trace["index"]))
        full = windows(values, 4) if len(values) >= 4 else np.array([])
        below = np.flatnonzero(full < threshold)
        if below.size and below[0] + 4 < len(values):  # with its last token it ends by itself
            assert trace["status"] == "stopped_low_confidence"
            assert trace["num_tokens"] == below[0] + 4
            assert (trace["answer"], trace["voted"]) == (None, False)
        else:
            assert trace["status"] in ("finished", "length")
            assert trace["num_tokens"] == len(values)
            assert not (below.size and trace["voted"])


def test_a_call_repeats(vllm_server: Server) -> None:
    think = {"budget": 6, "warmup": 2, "window": 4, "traces": "full"}
    first, second = (thought(vllm_server, think)["think"] for _ in range(2))
    keys = ("text", "answer", "status", "num_tokens", "voted")
    assert [{key: trace[key] for key in keys} for trace in first["traces"]] == [
        {key: trace[key] for key in keys} for trace in second["traces"]
    ]
    assert first["threshold"] == pytest.approx(second["threshold"], rel=1e-5)


def test_an_agreement_ends_what_runs(server: Server) -> None:
    think = {
        "budget": 8,
        "concurrency": 2,
        "calibrate": "none",
        "answer": {"extract": "regex", "pattern": "."},
        "consensus": {"rule": "beta", "threshold": 0.8, "min_finished": 2},
    }
    # Greedy: all traces say the same.
    answer = thought(server, think, temperature=0)["think"]
    assert answer["stopped_by"] == "consensus"
    assert len(answer["traces"]) < 8
    assert server.unfinished() == 0


def test_what_still_runs_is_ended_and_counted(server: Server) -> None:
    """One trace is enough here; of these three it has 8 tokens, and the first would have 136."""
    think = {
        "budget": 3,
        "concurrency": 3,
        "calibrate": "none",
        "answer": {"extract": "regex", "pattern": "."},
        "consensus": {"rule": "weighted_share", "min_finished": 1},
    }
    answer = thought(server, think, max_tokens=200)
    statuses = [trace["status"] for trace in answer["think"]["traces"]]
    assert "cancelled" in statuses
    for trace in answer["think"]["traces"]:
        if trace["status"] == "cancelled":
            assert 0 < trace["num_tokens"] < 200
            assert (trace["min_conf"], trace["answer"], trace["voted"]) == (None, None, False)
    assert server.unfinished() == 0


def test_all_tokens_together_stay_within_their_budget(vllm_server: Server) -> None:
    think = {"budget": 9, "calibrate": "none", "max_total_tokens": 60}
    answer = thought(vllm_server, think, ignore_eos=True)
    assert answer["think"]["stopped_by"] == "max_total_tokens"
    assert [trace["num_tokens"] for trace in answer["think"]["traces"]] == [24, 24, 12]
    assert answer["usage"]["completion_tokens"] == 60


def test_no_answer_is_an_answer(vllm_server: Server) -> None:
    answer = thought(
        vllm_server, {"budget": 2, "calibrate": "none", "answer": {"extract": "boxed"}}
    )
    assert answer["think"]["answer"] is None
    assert "no_answer" in answer["think"]["warnings"]
    assert answer["choices"][0]["message"]["content"]


def test_the_answer_carries_what_was_asked_for(vllm_server: Server) -> None:
    think = {"budget": 2, "calibrate": "none", "traces": "none"}
    answer = thought(
        vllm_server, think, logprobs=True, top_logprobs=2, confidence={"metrics": ["perplexity"]}
    )
    assert "traces" not in answer["think"]
    logprobs = answer["choices"][0]["logprobs"]
    token = logprobs["content"][0]
    assert len(token["top_logprobs"]) == 2
    assert token["confidence"] > 0
    assert logprobs["uncertainty"]["perplexity"]["value"] > 0


def events(server: Server, request: dict[str, Any]) -> list[dict[str, Any]]:
    with server.http() as http, http.stream("POST", PATH, json=request) as response:
        assert response.status_code == 200, response.read()
        lines = [line for line in response.iter_lines() if line.startswith("data: ")]
    assert lines.pop() == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines]


def alike(one: Any, other: Any) -> bool:
    """Whether two JSON values are the same but for the rounding of numbers: what else is in a step
    of the engine may change their last digits."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(alike(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(alike, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return one == pytest.approx(other, rel=1e-4)
    return bool(one == other)


def test_a_stream_tells_of_traces_and_then_answers(server: Server) -> None:
    think = {"budget": 4, "concurrency": 2, "warmup": 2, "window": 4, "keep_top": 0.5}
    request = body(think, stream=True, stream_options={"include_usage": True}, logprobs=True)
    chunks = events(server, request)
    whole = thought(server, think, logprobs=True)
    told = [chunk["think"] for chunk in chunks if "think" in chunk]
    assert all(chunk["choices"] == [] for chunk in chunks if "think" in chunk)
    kinds = [one["type"] for one in told]
    assert kinds[:2] == ["trace.started"] * 2
    assert kinds[-1] == "vote"
    assert kinds.count("threshold") == 1
    assert kinds.count("trace.started") == kinds.count("trace.ended") == 4
    assert alike({key: value for key, value in told[-1].items() if key != "type"}, whole["think"])
    for one in told:
        if one["type"] == "trace.window":
            assert one["token"] % 4 == 0
    first, last, usage = (chunk for chunk in chunks if "think" not in chunk)
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    (choice,), (expected,) = last["choices"], whole["choices"]
    assert choice["delta"]["content"] == expected["message"]["content"]
    assert alike(choice["logprobs"], expected["logprobs"])
    assert choice["finish_reason"] == expected["finish_reason"]
    assert usage["usage"] == whole["usage"]


def test_the_windows_of_a_stream_are_those_of_the_trace(vllm_server: Server) -> None:
    chunks = events(vllm_server, body({"budget": 1, "calibrate": "none", "window": 4}, stream=True))
    told = [chunk["think"] for chunk in chunks if "think" in chunk]
    means = [one["mean_conf"] for one in told if one["type"] == "trace.window"]
    values = confidences(chat(vllm_server, 11))
    assert means == pytest.approx(
        [np.mean(values[at : at + 4]) for at in range(0, len(values) - 3, 4)], rel=1e-5
    )


def test_the_stock_client_thinks(vllm_server: Server) -> None:
    client = openai.OpenAI(base_url=f"{vllm_server.url}/v1/think", api_key=vllm_server.api_key)
    extra: Any = {"think": {"budget": 3, "calibrate": "none", "answer": CHOICE}}
    made: Any = client.chat.completions.create(**BODY, extra_body=extra)
    assert made.think["answer"] in ("yes", "no", None)
    chunks = client.chat.completions.create(**BODY, extra_body=extra, stream=True)
    parts = [choice.delta.content or "" for chunk in chunks for choice in chunk.choices]
    assert "".join(parts) == made.choices[0].message.content


def test_a_client_that_leaves_ends_every_trace(server: Server) -> None:
    think = {"budget": 8, "concurrency": 4, "calibrate": "none"}
    request = body(think, ignore_eos=True, max_tokens=1500)
    with server.http() as http:
        with http.stream("POST", PATH, json=request | {"stream": True}) as response:
            next(response.iter_lines())
        until(lambda: server.unfinished() == 0)
        with pytest.raises(httpx.ReadTimeout):
            http.post(PATH, json=request, timeout=2)
    until(lambda: server.unfinished() == 0)


def until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"n": 2}, "n"),
        ({"stop": ["confidence"]}, "stop"),
        ({"think": {"budget": 0}}, "think.budget"),
        ({"think": {"budget": 513}}, "think.budget"),
        ({"think": {"budget": 4, "warmup": 4}}, "think.warmup"),
        ({"think": {"calibrate": "none", "warmup": 4}}, "think.warmup"),
        ({"think": {"calibrate": "fixed"}}, "think.below"),
        ({"think": {"below": 3.0}}, "think.below"),
        ({"think": {"keep_top": 1.0}}, "think.keep_top"),
        ({"think": {"keep_top": 0}}, "think.keep_top"),
        ({"think": {"vote": []}}, "think.vote"),
        ({"think": {"vote": ["loudest"]}}, "think.vote"),
        ({"think": {"max_total_tokens": 10**9}}, "think.max_total_tokens"),
        ({"think": {"answer": {"extract": "regex"}}}, "think.answer.pattern"),
        ({"think": {"answer": {"extract": "regex", "pattern": "("}}}, "think.answer.pattern"),
        ({"think": {"answer": {"extract": "choice", "choices": []}}}, "think.answer.choices"),
        ({"think": {"consensus": {"threshold": 0}}}, "think.consensus.threshold"),
        ({"think": {"tokens": 4}}, "think.tokens"),
        ({"think": {"top_k": 10**6}}, "confidence.top_k"),
        ({"confidence": {"mode": "empty"}}, "confidence.mode"),
        ({"confidence": {"early_stop": {"below": 3}}}, "confidence.early_stop"),
    ],
)
def test_what_cannot_be_is_refused(server: Server, fields: dict[str, Any], field: str) -> None:
    before = server.tokens_read()
    response = server.post(PATH, BODY | fields)
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert error["param"] == field or field in error["message"]
    assert server.tokens_read() == before


def test_the_prompt_is_computed_once(vllm_server: Server) -> None:
    messages = [{"role": "user", "content": f"{QUESTION} Think of {time.time()}. " * 20}]
    before = vllm_server.metric("vllm:prefix_cache_hits_total")
    think = {"budget": 5, "concurrency": 5, "calibrate": "none"}
    answer = thought(vllm_server, think, messages=messages, max_tokens=4)
    prompt = answer["usage"]["prompt_tokens"]
    hits = vllm_server.metric("vllm:prefix_cache_hits_total") - before
    assert hits >= 4 * (prompt // 16 - 1) * 16
