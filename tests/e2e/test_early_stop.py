"""Answers that end where their confidence becomes low, against those that go on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from tests.server import Server

MESSAGES = [{"role": "user", "content": "Tell me a story about a lighthouse."}]
PROMPT = "The lighthouse stood on a rock, and"
LENGTH = 48
WINDOW = 6
ROUTES = ("/v1/chat/completions", "/v1/completions")


def body(route: str, **fields: Any) -> dict[str, Any]:
    asked = {"messages": MESSAGES} if route == ROUTES[0] else {"prompt": PROMPT}
    common = {"model": "smol", "max_tokens": LENGTH, "temperature": 0, "return_token_ids": True}
    return {**asked, **common, "ignore_eos": True, **fields}


def post(server: Server, route: str, **fields: Any) -> dict[str, Any]:
    response = server.post(route, body(route, **fields))
    assert response.status_code == 200, response.text
    return response.json()


def confidences(server: Server, route: str, **fields: Any) -> list[list[float]]:
    """Of each answer, token by token, when nothing ends it."""
    answer = post(server, route, confidence={"mode": "summary"}, **shown(route), **fields)
    choices = sorted(answer["choices"], key=lambda choice: choice["index"])
    if route == ROUTES[0]:
        return [[token["confidence"] for token in c["logprobs"]["content"]] for c in choices]
    return [choice["logprobs"]["confidence"] for choice in choices]


def shown(route: str) -> dict[str, Any]:
    return {"logprobs": True} if route == ROUTES[0] else {"logprobs": 0}


def means(values: Sequence[float]) -> np.ndarray:
    """Of the full windows of an answer."""
    return np.lib.stride_tricks.sliding_window_view(np.array(values), WINDOW).mean(axis=1)


def halfway(values: Sequence[float]) -> tuple[float, int]:
    """A threshold that some window in the middle is the first to be below, and where it ends."""
    windows = means(values)
    place = 8 + int(np.argmin(windows[8:30]))
    below = float(windows[place]) + 1e-3
    first = int(np.argmax(windows < below))
    return below, first + WINDOW


def rule(below: float, **more: Any) -> dict[str, Any]:
    return {"below": below, "window": WINDOW, **more}


def streamed(server: Server, route: str, **fields: Any) -> list[dict[str, Any]]:
    """The last chunk of each choice, with its tokens and its text put together."""
    request = body(route, stream=True, **fields)
    found: dict[int, dict[str, Any]] = {}
    with server.http() as http, http.stream("POST", route, json=request) as response:
        for line in response.iter_lines():
            if not line.startswith("data: {"):
                continue
            for choice in json.loads(line.removeprefix("data: "))["choices"]:
                made = found.setdefault(choice["index"], {"token_ids": [], "text": ""})
                ids = made["token_ids"] + (choice.get("token_ids") or [])
                new = choice["delta"].get("content") if "delta" in choice else choice["text"]
                text = made["text"] + (new or "")
                made |= choice | {"token_ids": ids, "text": text}
    return [found[index] for index in sorted(found)]


def assert_ended(choice: dict[str, Any], at: int, below: float, value: float) -> None:
    assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", "confidence")
    assert len(choice["token_ids"]) == at
    told = choice["early_stop"]
    assert (told["token"], told["below"], told["window"]) == (at, below, WINDOW)
    assert told["action"] == "stop"
    assert told["value"] == pytest.approx(value, abs=1e-3)


@pytest.mark.parametrize("route", ROUTES)
def test_an_answer_ends_with_the_first_full_window_below(server: Server, route: str) -> None:
    (whole,) = confidences(server, route)
    below, at = halfway(whole)
    value = means(whole)[at - WINDOW]
    for mode in ("stats", "summary", "per_token"):
        confidence = {"mode": mode, "early_stop": rule(below)}
        answer = post(server, route, confidence=confidence)
        (choice,) = answer["choices"]
        assert_ended(choice, at, below, value)
        assert answer["usage"]["completion_tokens"] == at
        summary = choice["logprobs"]["confidence_summary"]
        assert summary["mean_confidence"] == pytest.approx(np.mean(whole[:at]), abs=1e-3)
        (last,) = streamed(server, route, confidence=confidence)
        assert_ended(last, at, below, value)
        assert last["token_ids"] == choice["token_ids"]
        shown_text = choice["message"]["content"] if "message" in choice else choice["text"]
        assert last["text"] == shown_text
        if mode == "per_token":
            assert shown_text == "".join(shown_tokens(choice))


def shown_tokens(choice: dict[str, Any]) -> list[str]:
    """The texts of an answer's tokens."""
    logprobs = choice["logprobs"]
    if "tokens" in logprobs:
        return logprobs["tokens"]
    return [token["token"] for token in logprobs["content"]]


@pytest.mark.parametrize("route", ROUTES)
def test_an_answer_that_stays_sure_runs_to_its_end(server: Server, route: str) -> None:
    confidence = {"mode": "stats", "early_stop": rule(-1.0)}
    (choice,) = post(server, route, confidence=confidence)["choices"]
    assert (choice["finish_reason"], choice["early_stop"]) == ("length", None)
    (last,) = streamed(server, route, confidence=confidence)
    assert (last["finish_reason"], last["early_stop"]) == ("length", None)
    (stock,) = post(server, route, confidence={"mode": "stats"})["choices"]
    assert "early_stop" not in stock


def test_each_of_several_answers_ends_for_itself(server: Server) -> None:
    route = ROUTES[0]
    sampled = {"temperature": 1.0, "seed": 5, "n": 3}
    found = confidences(server, route, **sampled)
    below = float(np.median([means(values).min() for values in found])) + 1e-3
    answer = post(server, route, confidence={"mode": "stats", "early_stop": rule(below)}, **sampled)
    for values, choice in zip(found, answer["choices"], strict=True):
        windows = means(values)
        if (windows < below).any():
            first = int(np.argmax(windows < below))
            assert_ended(choice, first + WINDOW, below, windows[first])
        else:
            assert (choice["finish_reason"], choice["early_stop"]) == ("length", None)
    assert {choice["early_stop"] is None for choice in answer["choices"]} == {True, False}


@pytest.mark.parametrize("name", ["confidence", "request"])
def test_it_ends_no_sooner_than_is_wanted(server: Server, name: str) -> None:
    route, least = ROUTES[1], 30
    early = rule(1000.0, **({"min_tokens": least} if name == "confidence" else {}))
    more = {"min_tokens": least} if name == "request" else {}
    answer = post(server, route, confidence={"mode": "stats", "early_stop": early}, **more)
    assert answer["choices"][0]["early_stop"]["token"] == least


def test_it_lives_with_stop_strings(server: Server) -> None:
    route = ROUTES[1]
    confidence = {"mode": "stats", "early_stop": rule(1000.0)}
    (choice,) = post(server, route, confidence=confidence, stop=["#no such thing#"])["choices"]
    assert choice["early_stop"]["token"] == WINDOW
    text = post(server, route)["choices"][0]["text"]
    stop = text.split()[1]
    (choice,) = post(server, route, confidence=confidence, stop=[stop])["choices"]
    assert (choice["stop_reason"], choice["early_stop"]) == (stop, None)


@pytest.mark.only_vllm("structured outputs")
def test_a_grammar_changes_nothing(server: Server) -> None:
    """Statistics are of what the model thinks, before the grammar masks it."""
    grammar = {"structured_outputs": {"regex": "[a-z ]{40,60}"}, "ignore_eos": False}
    confidence = {"mode": "stats", "early_stop": rule(1000.0)}
    (choice,) = post(server, ROUTES[0], confidence=confidence, **grammar)["choices"]
    assert choice["early_stop"]["token"] == WINDOW


@pytest.mark.parametrize(
    ("confidence", "field"),
    [
        ({"early_stop": {}}, "confidence.early_stop.below"),
        ({"early_stop": {"below": "high"}}, "confidence.early_stop.below"),
        ({"early_stop": {"below": 1.0, "window": 0}}, "confidence.early_stop.window"),
        (
            {"early_stop": {"below": 1.0, "window": 9, "min_tokens": 8}},
            "confidence.early_stop.min_tokens",
        ),
        ({"early_stop": {"below": 1.0, "above": 2.0}}, "confidence.early_stop.above"),
        ({"early_stop": {"below": 1.0, "action": "pause"}}, "confidence.early_stop.action"),
        # Neither server has a reasoning parser.
        ({"early_stop": {"below": 1.0, "action": "end_thinking"}}, "confidence.early_stop.action"),
        ({"mode": "empty", "early_stop": {"below": 1.0}}, "confidence.early_stop"),
    ],
)
def test_what_cannot_be_meant_is_a_400(
    server: Server, confidence: dict[str, Any], field: str
) -> None:
    response = server.post(ROUTES[0], body(ROUTES[0], confidence=confidence))
    assert response.status_code == 400, response.text
    # vLLM says `body` before what pydantic has refused.
    assert response.json()["error"]["param"].removeprefix("body.") == field


def test_a_stop_string_is_not_mistaken_for_it(server: Server) -> None:
    fields = {"confidence": {"early_stop": rule(1.0)}, "stop": ["confidence"]}
    response = server.post(ROUTES[0], body(ROUTES[0], **fields))
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == "stop"
