"""Chats and completions: modes of confidence, whole and in chunks, several answers and prompts."""

from __future__ import annotations

from typing import Any

import pytest

from conf_server.backends.base import Ask
from conf_server.small_server.generation_answers import ChatAnswer, CompletionAnswer
from tests.unit.small_server.conftest import Server, answered, events

SUMMARY = {
    "mean_confidence",
    "tail_2048_mean_conf",
    "min_sliding_2048_mean_conf",
    "bottom_0.1_sliding_2048_mean_conf",
    "bottom_0.5_sliding_2048_mean_conf",
}


def ask_of(server: Server) -> Ask:
    """The last one that the backend was asked to answer."""
    kind, _, ask = server.backend.asked[-1]
    assert kind == "stream"
    assert isinstance(ask, Ask)
    return ask


def test_a_chat_without_logprobs_is_openais(server: Server) -> None:
    answer = answered(server.chat())
    ChatAnswer.model_validate(answer)
    assert answer["id"].startswith("chatcmpl-")
    assert answer["model"] == "smol"
    assert answer["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "I am number 0", "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
            "stop_reason": None,
        }
    ]
    assert answer["usage"] == {
        "prompt_tokens": 3,
        "total_tokens": 7,
        "completion_tokens": 4,
        "prompt_tokens_details": None,
    }


def test_each_token_has_its_confidence(server: Server) -> None:
    body = {"logprobs": True, "top_logprobs": 1, "confidence": {"metrics": ["perplexity"]}}
    answer = answered(server.chat(**body))
    ChatAnswer.model_validate(answer)
    logprobs = answer["choices"][0]["logprobs"]
    words = [" am", " number", " 0"]
    assert [entry["token"] for entry in logprobs["content"]] == ["I", *words]
    first = server.backend.words.index("I")
    entry = logprobs["content"][0]
    assert entry["logprob"] == pytest.approx(-(first + 1) / 10)
    assert entry["bytes"] == [ord("I")]
    assert len(entry["top_logprobs"]) == 1
    assert entry["confidence"] == 1  # the made-up statistics are ones
    assert list(entry["uncertainty"]) == ["perplexity"]
    assert set(logprobs["confidence_summary"]) == SUMMARY
    assert logprobs["confidence_summary"]["mean_confidence"] == 1
    assert logprobs["uncertainty"]["perplexity"]["exact"] is True


@pytest.mark.parametrize(
    ("mode", "tokens", "summary"),
    [("per_token", 4, True), ("summary", 4, True), ("stats", 0, True), ("empty", 0, False)],
)
def test_modes_of_a_chat(server: Server, mode: str, tokens: int, summary: bool) -> None:
    body = {"logprobs": True, "top_logprobs": 2, "confidence": {"mode": mode}}
    logprobs = answered(server.chat(**body))["choices"][0]["logprobs"]
    assert len(logprobs["content"]) == tokens
    shown = {len(entry["top_logprobs"]) for entry in logprobs["content"]}
    assert shown == ({2} if mode == "per_token" else {0} if tokens else set())
    assert ("confidence_summary" in logprobs) == summary


@pytest.mark.parametrize("mode", ["per_token", "summary", "stats", "empty"])
def test_modes_of_a_completion(server: Server, mode: str) -> None:
    answer = answered(server.complete(logprobs=1, confidence={"mode": mode}))
    CompletionAnswer.model_validate(answer)
    choice = answer["choices"][0]
    logprobs = choice["logprobs"]
    if mode in ("stats", "empty"):
        assert logprobs["tokens"] == logprobs["token_logprobs"] == logprobs["text_offset"] == []
        assert "confidence" not in logprobs
    else:
        assert "".join(logprobs["tokens"]) == choice["text"]
        assert logprobs["text_offset"] == [0, 1, 4, 11]
        assert logprobs["confidence"] == [1] * 4
        assert len(logprobs["top_logprobs"]) == (4 if mode == "per_token" else 0)
    assert ("confidence_summary" in logprobs) == (mode != "empty")


def test_a_stream_joins_to_the_whole_answer(server: Server) -> None:
    body: dict[str, Any] = {
        "n": 2,
        "logprobs": True,
        "top_logprobs": 2,
        "confidence": {"metrics": ["mean_token_entropy"]},
    }
    whole = answered(server.chat(**body))
    chunks = events(server.chat(**body, stream=True, stream_options={"include_usage": True}))
    *chunks, last = chunks
    assert (last["choices"], last["usage"]) == ([], whole["usage"])
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert not any("usage" in chunk for chunk in chunks)
    opening = [chunk["choices"][0] for chunk in chunks[:2]]
    assert [choice["index"] for choice in opening] == [0, 1]
    assert [choice["delta"]["role"] for choice in opening] == ["assistant"] * 2
    for choice in whole["choices"]:
        parts = [c for chunk in chunks for c in chunk["choices"] if c["index"] == choice["index"]]
        text = "".join(part["delta"].get("content", "") for part in parts)
        assert text == choice["message"]["content"]
        told = [part["logprobs"] for part in parts if part["logprobs"]]
        entries = [entry for logprobs in told for entry in logprobs["content"]]
        assert entries == choice["logprobs"].pop("content")
        assert {**told[-1], "content": []} == {**choice["logprobs"], "content": []}
        assert "confidence_summary" not in told[0]
        # What the openai client keeps of a stream stands in the deltas.
        summary = choice["logprobs"]["confidence_summary"]
        assert parts[-1]["delta"]["confidence_summary"] == summary
        assert [part["finish_reason"] for part in parts[-2:]] == [None, "stop"]


def test_a_completions_stream_goes_on_counting_characters(server: Server) -> None:
    chunks = events(server.complete(logprobs=0, stream=True))
    logprobs = [chunk["choices"][0]["logprobs"] for chunk in chunks]
    assert [one["text_offset"] for one in logprobs] == [[0], [1], [4], [11]]
    assert "confidence_summary" in logprobs[-1]


def test_prompts_are_answered_in_their_order(server: Server) -> None:
    answer = answered(server.complete(prompt=["Who?", "And who are you?"], n=2))
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
    assert [choice["text"][-1] for choice in answer["choices"]] == ["0", "1", "0", "1"]
    assert answer["usage"]["prompt_tokens"] == 1 + 4
    chunks = events(server.complete(prompt=["Who?", "And who are you?"], n=2, stream=True))
    assert {chunk["choices"][0]["index"] for chunk in chunks} == {0, 1, 2, 3}


@pytest.mark.parametrize("prompt", [[3, 4], [[3, 4]]])
def test_prompts_may_be_tokens(server: Server, prompt: list[Any]) -> None:
    server.backend.ids("a b c d e")
    answer = answered(server.complete(prompt=prompt, return_token_ids=True))
    assert answer["choices"][0]["prompt_token_ids"] == [3, 4]
    assert len(answer["choices"][0]["token_ids"]) == 4
    chunks = events(server.complete(prompt=prompt, return_token_ids=True, stream=True))
    parts = [chunk["choices"][0] for chunk in chunks]
    assert [part.get("prompt_token_ids") for part in parts] == [[3, 4], None, None, None]
    ids = [token for part in parts for token in part["token_ids"]]
    assert ids == answer["choices"][0]["token_ids"]


def test_tokens_of_a_chat(server: Server) -> None:
    answer = answered(server.chat(return_token_ids=True))
    assert len(answer["prompt_token_ids"]) == answer["usage"]["prompt_tokens"]
    first, *rest = events(server.chat(return_token_ids=True, stream=True))
    assert first["prompt_token_ids"] == answer["prompt_token_ids"]
    ids = [token for chunk in rest for token in chunk["choices"][0]["token_ids"]]
    assert ids == answer["choices"][0]["token_ids"]


def test_sampling_options_reach_the_backend(server: Server) -> None:
    given = {
        **{"seed": 3, "top_p": 0.5, "top_k": 4, "min_p": 0.1, "stop": [" am"]},
        **{"presence_penalty": 0.5, "frequency_penalty": -0.5, "repetition_penalty": 1.1},
        **{"logit_bias": {"3": -100.0}, "min_tokens": 1, "stop_token_ids": [7]},
    }
    answered(server.chat(**given, temperature=0.2, max_tokens=5, n=2, user="me", tools=[]))
    ask = ask_of(server)
    assert ask.options == given
    assert (ask.temperature, ask.max_tokens, ask.n) == (0.2, 5, 2)


def test_the_models_own_defaults_hold_where_nothing_is_said(server: Server) -> None:
    answered(server.chat())
    assert (ask_of(server).temperature, ask_of(server).max_tokens) == (0.6, 9)
    answered(server.chat(max_tokens=4, max_completion_tokens=5))
    assert ask_of(server).max_tokens == 5
    answered(server.complete())
    assert (ask_of(server).temperature, ask_of(server).max_tokens) == (0.6, 16)


def test_only_what_is_told_is_asked_for(server: Server) -> None:
    wanted = []
    stream = server.backend.stream

    def noting(ask: Any, rows: Any, *more: Any) -> Any:
        wanted.append(rows)
        return stream(ask, rows, *more)

    server.backend.stream = noting  # type: ignore[method-assign]
    answered(server.chat())
    answered(server.chat(confidence={"mode": "empty"}))
    answered(server.chat(confidence={"mode": "stats"}))
    assert [rows.statistics for rows in wanted] == [False, False, True]


def test_the_servers_own_mode_and_tokens_as_ids(server: Server) -> None:
    body = {"logprobs": True, "return_tokens_as_token_ids": True}
    entry = answered(server.chat(**body))["choices"][0]["logprobs"]["content"][0]
    assert entry["token"] == f"token_id:{server.backend.words.index('I')}"
    assert entry["bytes"] == [ord("I")]
