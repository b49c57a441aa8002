"""Estimates that every answer with confidence carries: --default-methods."""

from __future__ import annotations

from typing import Any

import pytest

from conf_server.settings import ConfidenceSettings, SettingsError
from tests.unit.small_server.conftest import MESSAGES, Server, answered, events, small_server

NAMES = ("perplexity", "p_true", "attention_score_gen_only")
CONFIDENCE: dict[str, Any] = {"confidence": {"mode": "stats"}}


def serving(*names: str) -> Server:
    settings = ConfidenceSettings(top_k=2, default_methods=names, enable_hidden_states=True)
    return small_server(settings=settings)


@pytest.fixture
def server() -> Server:
    return serving(*NAMES)


def estimates(choice: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = choice["logprobs"]["uncertainty"]
    return found


def test_answers_carry_what_v1_uncertainty_says_of_them(server: Server) -> None:
    (choice,) = answered(server.chat(**CONFIDENCE))["choices"]
    answer = choice["message"]["content"]
    body = {"messages": MESSAGES, "answer": answer, "uncertainty": {"methods": list(NAMES)}}
    judged = answered(server.client.post("/v1/uncertainty", json=body))["estimates"]
    assert list(estimates(choice)) == list(NAMES)
    for name, found in estimates(choice).items():
        assert found == {"value": pytest.approx(judged[name]["value"]), "exact": True}


def test_each_of_several_answers_has_its_own(server: Server) -> None:
    answer = answered(server.complete(prompt=["a b", "c"], n=2, **CONFIDENCE))
    asked = [ask for kind, _, ask in server.backend.asked if kind == "labels"]
    assert len(asked) == 4
    assert all(set(estimates(choice)) == set(NAMES) for choice in answer["choices"])


def test_the_last_chunk_of_an_answer_carries_them(server: Server) -> None:
    whole = answered(server.chat(**CONFIDENCE))["choices"][0]
    chunks = events(server.chat(stream=True, **CONFIDENCE))
    (last,) = (chunk["choices"][0] for chunk in chunks if chunk["choices"][0]["finish_reason"])
    assert estimates(last) == last["delta"]["uncertainty"] == estimates(whole)


@pytest.mark.parametrize(
    "body",
    [{}, {"confidence": {"mode": "empty"}}, {"confidence": {"metrics": ["perplexity"]}}],
)
def test_who_does_not_ask_or_says_what_it_wants_gets_none(
    server: Server, body: dict[str, Any]
) -> None:
    (choice,) = answered(server.chat(**body))["choices"]
    assert not {kind for kind, _, _ in server.backend.asked} & {"labels", "states"}
    assert "p_true" not in ((choice["logprobs"] or {}).get("uncertainty") or {})


def test_v1_uncertainty_takes_them_where_a_request_names_none(server: Server) -> None:
    body = {"messages": MESSAGES}
    assert set(answered(server.client.post("/v1/uncertainty", json=body))["estimates"]) == {*NAMES}
    body["uncertainty"] = {"methods": ["fast"]}
    found = answered(server.client.post("/v1/uncertainty", json=body))["estimates"]
    assert "p_true" not in found


def test_what_one_answer_cannot_have_is_null_with_a_reason(server: Server) -> None:
    parts = [{"type": "text", "text": "Who are you?"}]
    server.backend.answer = lambda prompt, number: "x " * 80
    answer = answered(server.chat(messages=[{"role": "user", "content": parts}], **CONFIDENCE))
    found = estimates(answer["choices"][0])["attention_score_gen_only"]
    assert (found["value"], found["exact"]) == (None, False)
    assert "at most 63" in found["reason"]


def test_a_method_that_cannot_be_had_ends_the_start() -> None:
    with pytest.raises(SettingsError, match=r"^--default-methods: no method 'p_treu'"):
        serving("p_treu")
    with pytest.raises(SettingsError, match=r"^--default-methods: rde has to be fitted"):
        serving("rde")
