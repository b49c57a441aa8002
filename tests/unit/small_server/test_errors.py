"""What the small server refuses, and in what words."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable
from typing import Any

import pytest

from conf_server.backends.base import Ask, Caller
from conf_server.backends.dummy import DummyBackend
from conf_server.backends.streaming import Piece
from conf_server.refusal import RefusalError
from conf_server.settings import ConfidenceSettings
from conf_server.stats.early_stop import EarlyStop
from conf_server.stats.forced import WantedRows
from tests.unit.small_server.conftest import MESSAGES, Server, answered, error_of, events

MISSING = [
    ("tools", [{"type": "function", "function": {"name": "f"}}]),
    ("tool_choice", "required"),
    ("response_format", {"type": "json_object"}),
    ("structured_outputs", {"regex": "a"}),
    ("guided_json", {}),
    ("use_beam_search", True),
    ("logprob_token_ids", [1]),
    ("prompt_logprobs", 0),
    ("reasoning_effort", "low"),
    ("thinking", True),
]


@pytest.mark.parametrize(("name", "value"), MISSING)
def test_what_it_has_not_is_refused_by_name(server: Server, name: str, value: Any) -> None:
    error = error_of(server.chat(**{name: value}))
    assert error["param"] == name
    assert error["message"] == f"`{name}`: not available with --backend transformers."
    assert not server.backend.asked


@pytest.mark.parametrize(("name", "value"), [("echo", True), ("suffix", "."), ("best_of", 2)])
def test_nor_do_completions_have_it(server: Server, name: str, value: Any) -> None:
    assert error_of(server.complete(**{name: value}))["param"] == name


def test_what_says_nothing_or_changes_nothing_is_taken(server: Server) -> None:
    nothing: dict[str, Any] = {
        **{"tools": [], "tool_choice": "auto", "response_format": {"type": "text"}},
        **{"use_beam_search": False, "functions": None, "store": True, "metadata": {"a": "b"}},
        **{"user": "me", "service_tier": "auto", "bad_words": [], "n": None, "seed": None},
    }
    answered(server.chat(**nothing))
    answered(server.complete(echo=False, suffix=None, best_of=1))
    assert error_of(server.complete(best_of=True))["param"] == "best_of"


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"messages": []}, "messages"),
        ({"messages": "Hi"}, "messages"),
        ({"n": 0}, "n"),
        ({"n": 2000}, "n"),
        ({"temperature": -1}, "temperature"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": -1}, "top_logprobs"),
        ({"confidence": {"top_k": 21}}, "confidence.top_k"),
        ({"confidence": {"mode": "all"}}, "confidence.mode"),
        ({"confidence": {"bogus": 1}}, "confidence.bogus"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stop": 5}, "stop"),
        ({"seed": "x"}, "seed"),
        ({"chat_template": "{{ messages }}"}, "chat_template"),
        ({"continue_final_message": True, "add_generation_prompt": True}, "continue_final_message"),
        ({"request_id": "\ud800"}, "request_id"),
    ],
)
def test_wrong_chats_are_a_400_that_names_the_field(
    server: Server, fields: dict[str, Any], field: str
) -> None:
    body = json.dumps({"messages": MESSAGES, **fields})
    headers = {"content-type": "application/json"}
    response = server.client.post("/v1/chat/completions", content=body, headers=headers)
    error = error_of(response)
    assert error["param"] == field
    assert error["type"] == "BadRequestError"
    assert f"`{field}`" in error["message"]


@pytest.mark.parametrize("prompt", [None, "", [], {"a": 1}, [-1]])
def test_wrong_prompts(server: Server, prompt: Any) -> None:
    assert (error_of(server.complete(prompt=prompt))["param"] or "").startswith("prompt")


@pytest.mark.parametrize("route", ["chat/completions", "completions", "score", "uncertainty"])
def test_another_model_is_not_found(server: Server, route: str) -> None:
    texts = {"messages": MESSAGES} if route == "chat/completions" else {"prompt": "a"}
    more = {"completion": " b"} if route == "score" else {}
    response = server.client.post(f"/v1/{route}", json={**texts, **more, "model": "gpt"})
    error = error_of(response, 404)
    assert error["param"] == "model"
    assert error["message"] == "The model `gpt` does not exist. Valid aliases: smol, small."
    answered(server.chat(model="small"))


def test_bodies_that_are_no_json(server: Server) -> None:
    for path in ("/v1/chat/completions", "/v1/score"):
        headers = {"content-type": "application/json"}
        error = error_of(server.client.post(path, content=b"{", headers=headers))
        assert "JSON" in error["message"]
        headers = {"content-type": "text/plain"}
        error = error_of(server.client.post(path, content=b"{}", headers=headers))
        assert "application/json" in error["message"]


def test_unknown_routes_and_methods(server: Server) -> None:
    assert "/v1/nothing" in error_of(server.client.post("/v1/nothing"), 404)["message"]
    assert error_of(server.client.put("/v1/score"), 405)


def test_a_body_that_is_too_large(make_server: Callable[..., Server]) -> None:
    server = make_server(settings=ConfidenceSettings(top_k=2, max_body_bytes=100))
    assert error_of(server.chat(user="x" * 200), 413)


def test_keys(make_server: Callable[..., Server]) -> None:
    server = make_server(keys=["secret"])
    for method, path in [
        ("GET", "/v1/models"),
        ("GET", "/v1/models/smol"),
        ("GET", "/v1/uncertainty/methods"),
        ("GET", "/v1/hidden_states"),
        ("POST", "/v1/chat/completions"),
        ("POST", "/v1/score"),
    ]:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "secret"}):
            assert error_of(server.client.request(method, path, headers=headers), 401)
    for path in ("/health", "/ready", "/version", "/metrics", "/openapi.json"):
        assert server.client.get(path).status_code == 200
    right = {"Authorization": "Bearer secret"}
    assert server.client.get("/v1/models", headers=right).status_code == 200


class Failing(DummyBackend):
    """Gives one word, and then an error."""

    error: Exception = RuntimeError("/srv/model/weights.bin is broken")

    async def stream(
        self,
        ask: Ask,
        wanted: WantedRows,
        caller: Caller,
        early_stop: EarlyStop | None = None,
    ) -> AsyncGenerator[Piece, None]:
        async for piece in super().stream(ask, wanted, caller, early_stop):
            yield piece
            raise self.error


@pytest.fixture
def failing(make_server: Callable[..., Server]) -> Server:
    return make_server(Failing(lambda prompt, number: "I am"))


def test_what_goes_wrong_is_a_500_or_an_event(failing: Server) -> None:
    error = error_of(failing.chat(), 500)
    assert error["message"] == "<path> is broken"
    *_, last = events(failing.chat(stream=True))
    assert last["error"] == error
    *_, last = events(failing.complete(prompt=["a", "b"], stream=True))
    assert last["error"] == error


def test_a_backend_that_is_full_says_so(failing: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    full = RefusalError(None, "no memory is left", status=503, kind="ServiceUnavailableError")
    monkeypatch.setattr(Failing, "error", full)
    assert error_of(failing.chat(), 503)["message"] == "no memory is left"
    *_, last = events(failing.chat(stream=True))
    assert last["error"]["code"] == 503


def test_a_trusting_server_takes_templates(make_server: Callable[..., Server]) -> None:
    server = make_server(trusts_templates=True)
    answered(server.chat(chat_template="{{ messages }}"))
    body = {"messages": MESSAGES, "completion": "I", "chat_template": "x"}
    answered(server.client.post("/v1/score", json=body))
    untrusting = make_server()
    error = error_of(untrusting.client.post("/v1/score", json=body))
    assert error["param"] == "chat_template"
