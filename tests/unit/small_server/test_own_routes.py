"""The routes that vLLM has not, answered by the same handlers as with vLLM."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from conf_server.backends.dummy import DummyBackend
from conf_server.backends.dummy_numbers import LIMITS
from conf_server.settings import ConfidenceSettings
from conf_server.uncertainty.fitted import ModelIdentity
from tests.unit.small_server.conftest import MESSAGES, Server, answered, error_of, events

STATES = ConfidenceSettings(top_k=2, enable_hidden_states=True)
IDENTITY = ModelIdentity("/models/smol", 2, 3, "sha256:weights", None)


def test_score(server: Server) -> None:
    body = {"prompt": "Who?", "completions": [" me", " you"], "mode": "per_token"}
    answer = answered(server.client.post("/v1/score", json=body | {"top_logprobs": 1}))
    assert answer["id"].startswith("score-")
    assert answer["model"] == "smol"
    assert [result["num_tokens"] for result in answer["data"]] == [2, 2]
    token = answer["data"][0]["tokens"][1]
    place = server.backend.words.index(" me")
    assert (token["token"], token["token_id"]) == (" me", place)
    assert token["logprob"] == pytest.approx(-(place + 1) / 10)
    assert token["confidence"] == 1
    assert len(token["top_logprobs"]) == 1
    assert answer["usage"]["prompt_tokens_details"] is None
    wrong = server.client.post("/v1/score", json={"prompt": "Who?"})
    assert error_of(wrong)["param"] == "completion"


def test_hidden_states(make_server: Callable[..., Server]) -> None:
    server = make_server(settings=STATES, identity=IDENTITY)
    server.backend.ids("a b c d e f g")
    body = {"prompt": [2, 4], "layers": [1]}
    answer = answered(server.client.post("/v1/hidden_states", json=body))
    (result,) = answer["data"]
    states = np.frombuffer(base64.b64decode(result["states"]), "<f4")
    np.testing.assert_allclose(states, [3.01] * 3)
    described = answered(server.client.get("/v1/hidden_states"))
    assert (described["root"], described["num_heads"]) == ("/models/smol", 2)


def test_what_the_model_cannot_give_is_a_501(make_server: Callable[..., Server]) -> None:
    limits = replace(LIMITS, states="it has no layers", forcing="it cannot read")
    server = make_server(DummyBackend(lambda prompt, number: "", limits), STATES)
    error = error_of(server.client.get("/v1/hidden_states"), 501)
    assert (error["message"], error["type"]) == ("it has no layers", "NotImplementedError")
    error_of(server.client.post("/v1/hidden_states", json={"prompt": "a"}), 501)
    body = {"prompt": "a", "completion": "b"}
    assert error_of(server.client.post("/v1/score", json=body), 501)["message"] == "it cannot read"


def test_hidden_states_are_off_where_no_flag_says_otherwise(server: Server) -> None:
    for response in (
        server.client.get("/v1/hidden_states"),
        server.client.post("/v1/hidden_states", json={"prompt": "a"}),
    ):
        assert "--enable-hidden-states" in error_of(response, 501)["message"]


def test_uncertainty_of_an_answer(server: Server) -> None:
    body: dict[str, Any] = {"messages": MESSAGES, "uncertainty": {"methods": ["perplexity"]}}
    answer = answered(server.client.post("/v1/uncertainty", json=body))
    assert answer["answer"]["text"] == "I am number 0"
    assert answer["model"] == "smol"
    assert answer["estimates"]["perplexity"]["exact"] is True
    named = answered(server.client.post("/v1/uncertainty", json={**body, "model": "small"}))
    assert named["model"] == "smol"
    *progress, last = events(server.client.post("/v1/uncertainty", json={**body, "stream": True}))
    assert {event["object"] for event in progress} == {"uncertainty.progress"}
    assert last["estimates"] == answer["estimates"]
    body["uncertainty"] = {"methods": ["magic"]}
    wrong = server.client.post("/v1/uncertainty", json=body)
    assert error_of(wrong)["param"] == "uncertainty.methods"


def test_methods(server: Server) -> None:
    methods = answered(server.client.get("/v1/uncertainty/methods"))
    available = {method["name"]: method["available"] for method in methods["data"]}
    assert available["perplexity"]
    assert available["semantic_entropy"]
    assert not available["uhead"]


def test_limits_of_the_settings_hold(make_server: Callable[..., Server]) -> None:
    server = make_server(settings=ConfidenceSettings(top_k=2, max_score_items=1))
    body = {"prompt": "a", "completions": ["b", "c"]}
    error = error_of(server.client.post("/v1/score", json=body))
    assert "--max-score-items" in error["message"]
