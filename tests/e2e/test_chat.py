"""Confidence in chat and completion answers, through the stock openai client."""

from __future__ import annotations

import asyncio
import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from openai.types.chat import ChatCompletion

from tests.reference import Reference, metrics_by_definition
from tests.server import Server

QUESTION: Any = [{"role": "user", "content": "What is the capital of France?"}]
SUMMARY_KEYS = [
    "mean_confidence",
    "tail_2048_mean_conf",
    "min_sliding_2048_mean_conf",
    "bottom_0.1_sliding_2048_mean_conf",
    "bottom_0.5_sliding_2048_mean_conf",
]


def ask(server: Server, confidence: dict[str, Any] | None = None, **options: Any) -> ChatCompletion:
    options = {"max_tokens": 8, "temperature": 0, **options}
    extra = options.pop("extra_body", {})
    if confidence is not None:
        extra = {**extra, "confidence": confidence}
    answer: ChatCompletion = server.client().chat.completions.create(
        model="smol", messages=QUESTION, extra_body=extra, **options
    )
    return answer


def choice_logprobs(answer: ChatCompletion, index: int = 0) -> dict[str, Any]:
    logprobs = answer.choices[index].logprobs
    assert logprobs is not None
    return logprobs.model_dump()


def test_the_plugins_contract_adds_confidence_and_changes_nothing_else(server: Server) -> None:
    logprobs = choice_logprobs(ask(server, logprobs=True, top_logprobs=20))
    assert len(logprobs["content"]) == 8
    for entry in logprobs["content"]:
        shown = entry["top_logprobs"]
        assert len(shown) == 20
        assert shown[0]["token"] == entry["token"]  # greedy
        # Confidence recomputed from what stock vLLM shows.
        expected = -sum(candidate["logprob"] for candidate in shown) / 20
        assert entry["confidence"] == pytest.approx(expected, abs=1e-4)
        assert bytes(entry["bytes"]).decode() == entry["token"]
    confidences = [entry["confidence"] for entry in logprobs["content"]]
    assert list(logprobs["confidence_summary"]) == SUMMARY_KEYS
    assert logprobs["confidence_summary"]["mean_confidence"] == pytest.approx(
        np.mean(confidences), abs=1e-6
    )


def test_confidence_is_that_of_transformers(server: Server, reference: Reference) -> None:
    answer = ask(server, {"top_k": 7}, extra_body={"return_token_ids": True})
    generated = answer.choices[0].model_dump()["token_ids"]
    context = answer.model_dump()["prompt_token_ids"]
    rows = reference.logprobs([*context, *generated])[-len(generated) :]
    expected = -np.sort(-rows, axis=1)[:, :7].mean(axis=1) * -1
    entries = choice_logprobs(answer)["content"]
    np.testing.assert_allclose([e["confidence"] for e in entries], expected, atol=1e-3)
    np.testing.assert_allclose(
        [e["logprob"] for e in entries], rows[np.arange(len(generated)), generated], atol=1e-3
    )


def test_modes(server: Server) -> None:
    per_token = choice_logprobs(ask(server, {"mode": "per_token"}, logprobs=True, top_logprobs=3))
    assert [len(e["top_logprobs"]) for e in per_token["content"]] == [3] * 8
    summary = choice_logprobs(ask(server, {"mode": "summary"}, logprobs=True, top_logprobs=3))
    assert [e["top_logprobs"] for e in summary["content"]] == [[]] * 8
    assert [e["confidence"] for e in summary["content"]] == [
        pytest.approx(e["confidence"], abs=1e-4) for e in per_token["content"]
    ]
    stats = choice_logprobs(ask(server, {"mode": "stats"}))
    assert stats["content"] == []
    for logprobs in (per_token, summary, stats):
        assert logprobs["confidence_summary"]["mean_confidence"] == pytest.approx(
            per_token["confidence_summary"]["mean_confidence"], abs=1e-4
        )
    empty = choice_logprobs(ask(server, {"mode": "empty"}, logprobs=True, top_logprobs=3))
    assert empty["content"] == []
    assert "confidence_summary" not in empty


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        ({}, 0),
        ({"logprobs": True}, 0),
        ({"logprobs": True, "top_logprobs": 0}, 0),
        ({"logprobs": True, "top_logprobs": 2}, 2),
        ({"logprobs": True, "top_logprobs": 15}, 15),
    ],
)
def test_the_client_sees_the_candidates_it_asked_for(
    server: Server, options: dict[str, Any], shown: int
) -> None:
    logprobs = choice_logprobs(ask(server, {"top_k": 10}, max_tokens=2, **options))
    assert [len(entry["top_logprobs"]) for entry in logprobs["content"]] == [shown] * 2
    assert all(entry["confidence"] > 0 for entry in logprobs["content"])


def test_an_answer_without_log_probabilities_is_vllms_own(server: Server) -> None:
    assert ask(server).choices[0].logprobs is None


def test_window_renames_the_keys_and_metrics_are_marked(server: Server) -> None:
    logprobs = choice_logprobs(
        ask(server, {"mode": "stats", "window": 3, "metrics": ["perplexity", "max_token_entropy"]})
    )
    assert list(logprobs["confidence_summary"]) == [k.replace("2048", "3") for k in SUMMARY_KEYS]
    assert logprobs["confidence_summary"]["min_sliding_3_mean_conf"] > 0
    assert list(logprobs["uncertainty"]) == ["perplexity", "max_token_entropy"]


def test_metrics_are_exact(server: Server, reference: Reference) -> None:
    """Against transformers' whole distribution, by the metrics' definitions."""
    names = list(metrics_by_definition(np.log(np.full((1, 2), 0.5)), [0]))
    answer = ask(
        server,
        {"mode": "summary", "metrics": names},
        extra_body={"return_token_ids": True},
    )
    generated = answer.choices[0].model_dump()["token_ids"]
    context = answer.model_dump()["prompt_token_ids"]
    rows = reference.logprobs([*context, *generated])[-len(generated) :]
    logprobs = choice_logprobs(answer)
    for name, expected in metrics_by_definition(rows, generated).items():
        got = logprobs["uncertainty"][name]
        assert got["exact"] is True
        assert got["value"] == pytest.approx(expected, rel=5e-3, abs=5e-3), name
    for entry, row, token in zip(logprobs["content"], rows, generated, strict=True):
        of_token = metrics_by_definition(row[None], [token])
        assert entry["uncertainty"] == pytest.approx(of_token, rel=5e-3, abs=5e-3)


async def test_a_mixed_batch_gives_everybody_their_own(server: Server) -> None:
    """Statistics of several k, candidates, and vLLM's own log-probabilities, in one step."""
    bodies: list[dict[str, Any]] = [
        {"confidence": {"mode": "stats", "top_k": 3}},
        {"confidence": {"mode": "stats", "top_k": 17, "metrics": ["fisher_rao"]}},
        {"confidence": {"mode": "summary", "top_k": 3}},
        {"logprobs": True, "top_logprobs": 20},
        {"logprobs": True, "top_logprobs": 1, "confidence": {"mode": "per_token", "top_k": 9}},
        {},
    ]
    if server.kind == "vllm":  # the other one has no such field
        bodies.append({"prompt_logprobs": 1})
    common = {"messages": QUESTION, "max_tokens": 12, "temperature": 0, "ignore_eos": True}

    def answer(body: dict[str, Any]) -> Any:
        response = server.post("/v1/chat/completions", common | body)
        assert response.status_code == 200, response.text
        return response.json()["choices"][0]

    alone = [answer(body) for body in bodies]
    together = await asyncio.gather(*(asyncio.to_thread(answer, body) for body in bodies * 2))
    for got, expected in zip(together, alone * 2, strict=True):
        compare_numbers(got["message"], expected["message"])
        compare_numbers(got["logprobs"], expected["logprobs"])


def compare_numbers(got: Any, expected: Any) -> None:
    """The same structure, and numbers up to the rounding of another batch shape."""
    if isinstance(expected, dict):
        assert set(got) == set(expected)
        for key in expected:
            compare_numbers(got[key], expected[key])
    elif isinstance(expected, list):
        assert len(got) == len(expected)
        for pair in zip(got, expected, strict=True):
            compare_numbers(*pair)
    elif isinstance(expected, float):
        assert got == pytest.approx(expected, abs=1e-3)
    else:
        assert got == expected


def test_every_choice_has_its_own_summary(server: Server) -> None:
    # Not so hot that there are bytes among the tokens that make no character.
    answer = ask(server, {"mode": "summary"}, n=3, temperature=1.0, seed=7, max_tokens=12)
    summaries = set()
    for index, choice in enumerate(answer.choices):
        assert choice.index == index
        logprobs = choice_logprobs(answer, index)
        mean = np.mean([entry["confidence"] for entry in logprobs["content"]])
        assert logprobs["confidence_summary"]["mean_confidence"] == pytest.approx(mean, abs=1e-6)
        assert "".join(e["token"] for e in logprobs["content"]).startswith(
            choice.message.content or ""
        )
        summaries.add(round(float(mean), 6))
    assert len(summaries) == 3


def test_confidence_is_of_the_raw_distribution(server: Server) -> None:
    """Temperature, penalties and bias steer what is sampled, not how likely it was."""
    plain = choice_logprobs(ask(server, {}, max_tokens=1))["content"][0]
    for steering in (
        {"temperature": 2.0, "seed": 1},
        {"presence_penalty": 2.0, "frequency_penalty": 2.0},
        {"extra_body": {"repetition_penalty": 1.8, "min_p": 0.2}, "temperature": 1.3},
        {"logit_bias": {"7042": 50}},
    ):
        steered = choice_logprobs(ask(server, {}, max_tokens=1, **steering))["content"][0]
        assert steered["confidence"] == pytest.approx(plain["confidence"], abs=1e-4)
    biased = choice_logprobs(ask(server, {}, max_tokens=1, logit_bias={"7042": 50}))["content"][0]
    assert biased["token"] != plain["token"]
    assert biased["logprob"] < plain["logprob"]


@pytest.mark.only_vllm("structured outputs")
def test_a_grammar_does_not_change_what_the_model_thinks(server: Server) -> None:
    metrics = ["perplexity", "mean_token_entropy"]
    confidence = {"mode": "per_token", "metrics": metrics}
    free = choice_logprobs(ask(server, confidence, max_tokens=1))
    choices = {"structured_outputs": {"choice": ["Lyon", "Nice"]}}
    bound = choice_logprobs(ask(server, confidence, max_tokens=1, extra_body=choices))
    assert bound["content"][0]["token"] != free["content"][0]["token"]
    confidences = [logprobs["content"][0]["confidence"] for logprobs in (free, bound)]
    assert confidences[0] == pytest.approx(confidences[1], abs=1e-3)
    entropy = [logprobs["uncertainty"]["mean_token_entropy"] for logprobs in (free, bound)]
    assert entropy[0]["value"] == pytest.approx(entropy[1]["value"], abs=1e-3)
    assert all(metric["exact"] for metric in entropy)
    exact = [logprobs["uncertainty"]["perplexity"]["exact"] for logprobs in (free, bound)]
    assert exact == [True, False]


def test_stop_strings_cut_text_not_tokens(server: Server) -> None:
    answer = ask(server, {"mode": "per_token"}, stop=[" of"])
    assert answer.choices[0].message.content == "The capital"
    logprobs = choice_logprobs(answer)
    assert [entry["token"] for entry in logprobs["content"]] == ["The", " capital", " of"]
    mean = np.mean([entry["confidence"] for entry in logprobs["content"]])
    assert logprobs["confidence_summary"]["mean_confidence"] == pytest.approx(mean, abs=1e-6)
    # The engine does not see the end of such an answer, so its rows must not wait for it.
    stats = choice_logprobs(ask(server, {"mode": "stats"}, stop=[" of"]))
    assert stats["confidence_summary"] == pytest.approx(logprobs["confidence_summary"], abs=1e-4)


def test_an_empty_answer_still_has_a_summary(server: Server) -> None:
    # The end-of-turn token comes first: no text, one token.
    answer = ask(server, {"mode": "stats"}, logit_bias={"2": 100})
    assert answer.choices[0].message.content == ""
    assert choice_logprobs(answer)["confidence_summary"]["mean_confidence"] > 0


@pytest.mark.parametrize("mode", ["per_token", "summary", "stats", "empty"])
def test_streaming_gives_what_the_whole_answer_gives(server: Server, mode: str) -> None:
    whole = choice_logprobs(ask(server, {"mode": mode}, logprobs=True, top_logprobs=2))
    content, summaries = [], []
    stream = server.client().chat.completions.create(
        model="smol",
        messages=QUESTION,
        max_tokens=8,
        temperature=0,
        logprobs=True,
        top_logprobs=2,
        stream=True,
        extra_body={"confidence": {"mode": mode}},
    )
    for chunk in stream:
        (choice,) = chunk.choices
        if choice.logprobs is None:
            continue
        logprobs = choice.logprobs.model_dump()
        content += logprobs["content"]
        if "confidence_summary" in logprobs:
            assert choice.finish_reason
            summaries.append(logprobs["confidence_summary"])
    assert [entry["token"] for entry in content] == [e["token"] for e in whole["content"]]
    for streamed, expected in zip(content, whole["content"], strict=True):
        assert streamed["confidence"] == pytest.approx(expected["confidence"], abs=1e-4)
        assert len(streamed["top_logprobs"]) == len(expected["top_logprobs"])
    if mode == "empty":
        assert summaries == []
    else:
        assert summaries == [pytest.approx(whole["confidence_summary"], abs=1e-4)]


def test_the_summary_stands_in_the_message_too(server: Server) -> None:
    """Where `stream()` keeps it, and where programs find it that hand on messages alone."""
    answer = ask(server, {"mode": "stats", "metrics": ["perplexity"]}, n=2, temperature=1.0)
    for index, choice in enumerate(answer.choices):
        message, logprobs = choice.message.model_dump(), choice_logprobs(answer, index)
        assert message["confidence_summary"] == logprobs["confidence_summary"]
        assert message["uncertainty"] == logprobs["uncertainty"]
    assert (
        "confidence_summary" not in ask(server, {"mode": "empty"}).choices[0].message.model_dump()
    )
    assert "confidence_summary" not in ask(server).choices[0].message.model_dump()


def test_a_message_with_its_summary_goes_back_as_it_is(server: Server) -> None:
    with_it, without = (
        ask(server, {"mode": mode}).choices[0].message for mode in ("stats", "empty")
    )
    usages = []
    for message in (with_it, without):
        turn = message.model_dump(exclude_none=True)
        answer = server.client().chat.completions.create(
            model="smol", messages=[*QUESTION, turn, *QUESTION], max_tokens=1
        )
        usages.append(answer.usage)
    assert usages[0] == usages[1]  # the model reads nothing of it


@pytest.mark.parametrize("mode", ["summary", "stats"])
def test_the_clients_own_accumulation_keeps_the_summary(server: Server, mode: str) -> None:
    """`stream()` puts an answer together from deltas, and of `logprobs` keeps the entries only."""
    confidence = {"mode": mode, "metrics": ["perplexity"]}
    options: Any = {"max_tokens": 100, "logprobs": True}
    whole = choice_logprobs(ask(server, confidence, **options))
    with server.client().chat.completions.stream(
        model="smol",
        messages=QUESTION,
        temperature=0,
        extra_body={"confidence": confidence},
        **options,
    ) as stream:
        (choice,) = stream.until_done().get_final_completion().choices
    message = choice.message.model_dump()
    assert message["content"].startswith("The capital of France is Paris")
    assert message["confidence_summary"] == pytest.approx(whole["confidence_summary"], abs=1e-4)
    assert message["uncertainty"]["perplexity"]["exact"] is True
    assert choice.logprobs is not None
    entries = choice.logprobs.model_dump()["content"]
    expected = [entry["confidence"] for entry in whole["content"]]
    assert [entry["confidence"] for entry in entries] == pytest.approx(expected, abs=1e-4)


def test_streaming_several_choices(server: Server) -> None:
    means: dict[int, float] = {}
    tokens: dict[int, list[float]] = {0: [], 1: []}
    stream = server.client().chat.completions.create(
        model="smol",
        messages=QUESTION,
        max_tokens=10,
        temperature=1.5,
        seed=3,
        n=2,
        stream=True,
        extra_body={"confidence": {"mode": "summary"}},
    )
    for chunk in stream:
        for choice in chunk.choices:
            logprobs = choice.logprobs.model_dump() if choice.logprobs else {"content": []}
            tokens[choice.index] += [entry["confidence"] for entry in logprobs["content"]]
            if "confidence_summary" in logprobs:
                means[choice.index] = logprobs["confidence_summary"]["mean_confidence"]
    assert means == {i: pytest.approx(np.mean(tokens[i]), abs=1e-6) for i in (0, 1)}


@pytest.mark.only_vllm("tools")
def test_tool_calls_are_parsed_as_ever(server: Server) -> None:
    tool: Any = {
        "type": "function",
        "function": {
            "name": "weather",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}},
                "required": ["city"],
                "additionalProperties": False,
            },
        },
    }
    answer = ask(
        server,
        {"mode": "stats"},
        max_tokens=64,
        tools=[tool],
        tool_choice={"type": "function", "function": {"name": "weather"}},
    )
    (call,) = answer.choices[0].message.tool_calls or ()
    assert call.function.name == "weather"  # type: ignore[union-attr]
    assert choice_logprobs(answer)["confidence_summary"]["mean_confidence"] > 0


def test_characters_split_over_tokens_are_whole_where_they_end(server: Server) -> None:
    answer = server.client().chat.completions.create(
        model="smol",
        messages=[{"role": "user", "content": "Repeat exactly: 😀 名前 😀"}],
        max_tokens=24,
        temperature=0,
        logprobs=True,
        top_logprobs=1,
    )
    content = choice_logprobs(answer)["content"]
    text = "".join(entry["token"] for entry in content if entry["token"] != "<|im_end|>")
    assert text.startswith((answer.choices[0].message.content or "").rstrip("�"))
    assert "�" not in text


async def test_the_async_client(server: Server) -> None:
    async with server.async_client() as client:
        stream = await client.chat.completions.create(
            model="smol",
            messages=QUESTION,
            max_tokens=4,
            stream=True,
            stream_options={"include_usage": True},
            extra_body={"confidence": {"mode": "stats"}},
        )
        last = None
        async for chunk in stream:
            if chunk.choices and chunk.choices[0].finish_reason:
                last = chunk.choices[0]
    assert last is not None
    assert last.logprobs.model_dump()["confidence_summary"]["mean_confidence"] > 0  # type: ignore[union-attr]


@pytest.mark.only_vllm("adapters")
def test_an_adapter_answers_with_confidence(server: Server) -> None:
    answer = server.client().chat.completions.create(
        model="adapter",
        messages=QUESTION,
        max_tokens=2,
        extra_body={"confidence": {"mode": "stats"}},
    )
    assert answer.model == "adapter"
    assert choice_logprobs(answer)["confidence_summary"]["mean_confidence"] > 0


class TestCompletions:
    """/v1/completions has its own shape of log-probabilities."""

    def complete(self, server: Server, **options: Any) -> dict[str, Any]:
        body = {"prompt": "The capital of France is", "max_tokens": 5, "temperature": 0}
        response = server.post("/v1/completions", {**body, **options})
        assert response.status_code == 200, response.text
        return response.json()["choices"][0]["logprobs"]

    def test_log_probabilities_bring_confidence(self, server: Server) -> None:
        logprobs = self.complete(server, logprobs=20)
        for candidates, confidence in zip(
            logprobs["top_logprobs"], logprobs["confidence"], strict=True
        ):
            assert len(candidates) == 20
            assert confidence == pytest.approx(-sum(candidates.values()) / 20, abs=1e-4)
        assert list(logprobs["confidence_summary"]) == SUMMARY_KEYS
        assert logprobs["text_offset"] == [len("".join(logprobs["tokens"][:i])) for i in range(5)]

    def test_fewer_candidates_are_shown_than_counted(self, server: Server) -> None:
        few, many = self.complete(server, logprobs=2), self.complete(server, logprobs=20)
        assert [len(candidates) for candidates in few["top_logprobs"]] == [2] * 5
        assert few["confidence"] == pytest.approx(many["confidence"], abs=1e-4)
        assert few["token_logprobs"] == pytest.approx(many["token_logprobs"], abs=1e-4)

    def test_modes(self, server: Server) -> None:
        summary = self.complete(server, logprobs=2, confidence={"mode": "summary"})
        assert summary["top_logprobs"] == []
        assert len(summary["confidence"]) == len(summary["tokens"]) == 5
        stats = self.complete(server, confidence={"mode": "stats"})
        assert stats["tokens"] == []
        assert stats["confidence_summary"]["mean_confidence"] > 0
        empty = self.complete(server, logprobs=2, confidence={"mode": "empty"})
        assert set(empty) == {"text_offset", "token_logprobs", "tokens", "top_logprobs"}
        assert not any(empty.values())

    def test_of_equal_texts_the_likeliest_is_shown(
        self, server: Server, reference: Reference
    ) -> None:
        """Parts of characters have no text of their own: all of them read as ""."""
        prompt = reference.tokenizer("😀 😀 😀")["input_ids"][:-2]
        answer = server.post(
            "/v1/completions", {"prompt": prompt, "max_tokens": 1, "temperature": 0, "logprobs": 20}
        ).json()
        (shown,) = answer["choices"][0]["logprobs"]["top_logprobs"]
        body = {"prompt": prompt, "completion": [5], "mode": "per_token", "top_logprobs": 20}
        (token,) = server.post("/v1/score", body).json()["data"][0]["tokens"]
        likeliest: dict[str, float] = {}
        for candidate in token["top_logprobs"]:  # likeliest first
            likeliest.setdefault(candidate["token"], candidate["logprob"])
        assert len(likeliest) < 20
        assert shown == pytest.approx(likeliest, abs=1e-4)

    @pytest.mark.only_vllm("echo")
    def test_echo_is_vllms_own(self, server: Server) -> None:
        logprobs = self.complete(server, logprobs=1, echo=True)
        assert "confidence" not in logprobs
        assert logprobs["token_logprobs"][0] is None
        assert len(logprobs["tokens"]) > 5

    def test_several_prompts_stream_each_with_a_summary(self, server: Server) -> None:
        stream = server.client().completions.create(
            model="smol",
            prompt=["One, two,", "Red, green,"],
            n=2,
            temperature=1.0,
            max_tokens=3,
            logprobs=1,
            stream=True,
            extra_body={"confidence": {"mode": "summary"}},
        )
        summaries: dict[int, float] = {}
        confidences: dict[int, list[float]] = {i: [] for i in range(4)}
        for chunk in stream:
            for choice in chunk.choices:
                logprobs = choice.logprobs.model_dump() if choice.logprobs else {}
                confidences[choice.index] += logprobs.get("confidence", [])
                if "confidence_summary" in logprobs:
                    summaries[choice.index] = logprobs["confidence_summary"]["mean_confidence"]
        assert all(math.isfinite(value) for value in summaries.values())
        assert summaries == {i: pytest.approx(np.mean(confidences[i]), abs=1e-6) for i in range(4)}


@pytest.mark.only_vllm("chunks whose size depends on who else is there")
def test_seeded_prompts_computed_in_chunks(server: Server) -> None:
    """Stock vLLM's CPU runner ends the engine here; and a chunk more or less is no other text."""
    bodies = [
        {"prompt": list(range(first, first + 1900)), "max_tokens": 8, "seed": 5, "temperature": 1}
        for first in (1000, 5000, 9000)
    ]
    alone = [server.post("/v1/completions", body).json()["choices"][0]["text"] for body in bodies]
    with ThreadPoolExecutor() as pool:
        salted = [body | {"cache_salt": "chunks"} for body in bodies]
        together = list(pool.map(lambda body: server.post("/v1/completions", body), salted))
    assert [answer.json()["choices"][0]["text"] for answer in together] == alone
