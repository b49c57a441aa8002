"""Confidence in /v1/responses, through the stock openai client."""

from __future__ import annotations

from typing import Any

import openai
import pytest

from tests.e2e.test_chat import compare_numbers
from tests.e2e.test_errors import wait_until_idle
from tests.server import Server

pytestmark = pytest.mark.only_vllm("the route")

TOOL: Any = {
    "type": "function",
    "name": "weather",
    "strict": True,
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}},
        "required": ["city"],
        "additionalProperties": False,
    },
}


def options(confidence: Any, **more: Any) -> dict[str, Any]:
    extra = more.pop("extra_body", {})
    return {
        "model": "smol",
        "input": "What is the capital of France?",
        "temperature": 0,
        "max_output_tokens": 40,
        "extra_body": extra if confidence is None else {**extra, "confidence": confidence},
        **more,
    }


def ask(server: Server, confidence: Any = None, **more: Any) -> dict[str, Any]:
    answer = server.client().responses.create(**options(confidence, **more))
    return answer.model_dump()


def events(server: Server, confidence: Any, **more: Any) -> list[Any]:
    return list(server.client().responses.create(**options(confidence, stream=True, **more)))


def text_part(response: dict[str, Any]) -> dict[str, Any]:
    (item,) = response["output"]
    (part,) = item["content"]
    return part


def chat_logprobs(server: Server, confidence: dict[str, Any], **more: Any) -> dict[str, Any]:
    """What /v1/chat/completions says of the same answer."""
    answer = server.client().chat.completions.create(
        model="smol",
        messages=[{"role": "user", "content": "What is the capital of France?"}],
        temperature=0,
        max_tokens=40,
        logprobs=True,
        extra_body={"confidence": confidence},
        **more,
    )
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    return logprobs.model_dump()


@pytest.mark.parametrize("mode", ["per_token", "summary", "stats", "empty"])
def test_the_numbers_are_those_of_a_chat(server: Server, mode: str) -> None:
    confidence = {"mode": mode, "metrics": ["perplexity"]}
    expected = chat_logprobs(server, confidence, top_logprobs=2)
    response = ask(server, confidence, top_logprobs=2)
    part = text_part(response)
    assert part["text"] == "The capital of France is Paris."
    compare_numbers(part["logprobs"], expected["content"])
    for name in ("confidence_summary", "uncertainty"):
        # Beside the text for those who keep the output alone.
        compare_numbers(part.get(name), expected.get(name))
        compare_numbers(response.get(name), expected.get(name))
    assert response["top_logprobs"] == 2


@pytest.mark.parametrize("mode", ["per_token", "summary", "stats", "empty"])
def test_streaming_gives_what_the_whole_answer_gives(server: Server, mode: str) -> None:
    confidence = {"mode": mode, "metrics": ["perplexity"]}
    whole = ask(server, confidence, top_logprobs=2)
    stream = events(server, confidence, top_logprobs=2)
    assert stream[0].response.top_logprobs == 2
    last = stream[-1].response.model_dump()
    compare_numbers(last.get("confidence_summary"), whole.get("confidence_summary"))
    compare_numbers(last.get("uncertainty"), whole.get("uncertainty"))
    compare_numbers(text_part(last), text_part(whole))
    (part,) = [event.part for event in stream if event.type == "response.content_part.done"]
    (item,) = [event.item for event in stream if event.type == "response.output_item.done"]
    assert part.model_dump() == item.content[0].model_dump() == text_part(last)
    # The end token has no text, and so no delta.
    deltas = [event for event in stream if event.type == "response.output_text.delta"]
    entries = [entry.model_dump() for event in deltas for entry in event.logprobs]
    shown = text_part(whole)["logprobs"][: len(entries)]
    assert len(entries) == (7 if mode in ("per_token", "summary") else 0)
    for entry in shown:
        del entry["bytes"]  # OpenAI's events have none
        for candidate in entry["top_logprobs"]:
            del candidate["bytes"]
    compare_numbers(entries, shown)
    assert [event.sequence_number for event in stream] == list(range(len(stream)))


def test_the_clients_own_accumulation_keeps_it(server: Server) -> None:
    request = options({"mode": "summary"})
    with server.client().responses.stream(**request) as stream:
        response: Any = stream.get_final_response()
    assert response.confidence_summary["mean_confidence"] > 0
    part = response.output[0].content[0]
    assert part.confidence_summary == response.confidence_summary
    assert part.logprobs[0].confidence > 0


def test_without_a_word_of_it_the_answer_is_vllms(server: Server) -> None:
    response = ask(server)
    assert "confidence_summary" not in response
    assert text_part(response)["logprobs"] is None
    # As in a chat: log-probabilities bring confidence.
    response = ask(server, include=["message.output_text.logprobs"])
    assert text_part(response)["logprobs"][0]["confidence"] > 0
    assert response["confidence_summary"]["mean_confidence"] > 0


def test_a_split_character_stands_with_the_delta_that_has_it(server: Server) -> None:
    more: dict[str, Any] = {"input": "Repeat exactly: 😀 名前 😀", "max_output_tokens": 24}
    whole = text_part(ask(server, {"mode": "summary"}, **more))
    stream = events(server, {"mode": "summary"}, **more)
    deltas = [event for event in stream if event.type == "response.output_text.delta"]
    entries = [entry for event in deltas for entry in event.logprobs]
    tokens = [entry["token"] for entry in whole["logprobs"]]
    assert [entry.token for entry in entries] == tokens[: len(entries)]
    assert text_part(stream[-1].response.model_dump())["logprobs"][-1]["token"] == tokens[-1]


@pytest.mark.parametrize("is_streamed", [False, True])
def test_a_tool_call_is_of_all_tokens(server: Server, is_streamed: bool) -> None:
    choice: Any = {"type": "function", "name": "weather"}
    confidence = {"mode": "stats", "metrics": ["perplexity", "mean_token_entropy"]}
    more: dict[str, Any] = {"tools": [TOOL], "tool_choice": choice, "max_output_tokens": 64}
    if is_streamed:
        response = events(server, confidence, **more)[-1].response.model_dump()
    else:
        response = ask(server, confidence, **more)
    (call,) = response["output"]
    assert call["name"] == "weather"
    assert "confidence_summary" not in call
    assert response["confidence_summary"]["mean_confidence"] > 0
    # A grammar has masked the logits.
    exact = {name: metric["exact"] for name, metric in response["uncertainty"].items()}
    assert exact == {"perplexity": False, "mean_token_entropy": True}


def test_an_answer_goes_back_as_input(server: Server) -> None:
    first = server.client().responses.create(**options({"mode": "stats"}))
    turns: Any = [
        {"role": "user", "content": "What is the capital of France?"},
        *[item.model_dump(exclude_none=True) for item in first.output],
        {"role": "user", "content": "And of Italy?"},
    ]
    second = ask(server, {"mode": "stats"}, input=turns)
    assert second["confidence_summary"]["mean_confidence"] > 0
    for part in turns[1]["content"]:
        del part["confidence_summary"]
    # The model reads nothing of it.
    assert ask(server, input=turns)["usage"]["input_tokens"] == second["usage"]["input_tokens"]


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"background": True}, "confidence"),
        ({"extra_body": {"include_reasoning": False}}, "confidence"),
        ({"top_logprobs": 21}, "top_logprobs"),
    ],
)
@pytest.mark.parametrize("is_streamed", [False, True])
def test_what_cannot_have_confidence_is_refused(
    server: Server, more: dict[str, Any], param: str, is_streamed: bool
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        server.client().responses.create(**options({}, stream=is_streamed, **more))
    assert caught.value.param == param


def test_a_client_that_leaves_a_stream_frees_its_work(server: Server) -> None:
    request = options({}, stream=True, max_output_tokens=1900, extra_body={"ignore_eos": True})
    with server.client().responses.create(**request) as stream:
        next(event for event in stream if event.type == "response.output_text.delta")
    assert wait_until_idle(server, 10)


def test_an_early_stop_is_refused(server: Server) -> None:
    confidence = {"mode": "stats", "early_stop": {"below": 1.0}}
    request = {"model": "smol", "input": "Hello", "confidence": confidence}
    response = server.post("/v1/responses", request)
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == "confidence.early_stop"
