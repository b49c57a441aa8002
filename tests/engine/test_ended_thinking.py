"""Answers whose thinking is ended: from the engine's client, and over HTTP. V1, a tiny model."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from prometheus_client import REGISTRY
from vllm.inputs import tokens_input
from vllm.sampling_params import RequestOutputKind, SamplingParams

from conf_server.engine.client.async_llm import ConfidenceAsyncLLM
from conf_server.engine.client.ended_thinking import thinking_tokens
from conf_server.engine.marks import ask_for_rows
from conf_server.flags import parse_args
from conf_server.launcher import build_confidence_app
from conf_server.settings import ConfidenceSettings
from conf_server.stats.early_stop import EarlyStop, ThinkingTokens
from tests.engine.small_engine import small_engine
from tests.engine.whole_answers import Answer, ask
from tests.tiny_model import END_THINK, THINK, write_tiny_model

FLAGS = ("--reasoning-parser=qwen3", "--served-model-name=tiny")
DELTA, FINAL_ONLY = RequestOutputKind.DELTA, RequestOutputKind.FINAL_ONLY
PROMPT = [*range(1000, 1020), THINK]
LENGTH = 24
THINKING = ThinkingTokens((THINK,), (END_THINK,), (END_THINK,))
PHRASE = (2000, 2001)
AT = 9
"""Tokens of the thinking, where the rule ends it: all windows are below."""

RULE = EarlyStop(1000.0, 3, AT, THINKING)
SAMPLED = {"temperature": 1.0, "seed": 3}

ASKED: dict[str, tuple[list[int], dict[str, Any], EarlyStop | None]] = {
    "whole": (PROMPT, {}, None),
    "ended": (PROMPT, {}, RULE),
    "streamed": (PROMPT, {"output_kind": DELTA}, RULE),
    "with a phrase": (PROMPT, {}, replace(RULE, thinking=replace(THINKING, forced=(*PHRASE, 5)))),
    "at the last token": (PROMPT, {"max_tokens": AT + 1}, RULE),
    "thinking is over": ([*PROMPT, 7, END_THINK, 7], {}, RULE),
    "thinking was over": ([*PROMPT, 7, END_THINK, 7], {}, None),
    "sampled": (PROMPT, {**SAMPLED, "n": 3}, RULE),
    "sampled, streamed": (PROMPT, {**SAMPLED, "n": 3, "output_kind": DELTA}, RULE),
    "sampled, whole": (PROMPT, {**SAMPLED, "n": 3}, None),
    "by itself": (PROMPT, {"logit_bias": {END_THINK: 100.0}}, RULE),
    "ends with it": (PROMPT, {"stop_token_ids": [END_THINK]}, RULE),
}
CHAT = {
    "model": "tiny",
    "messages": [{"role": "user", "content": "Hi"}],
    "max_tokens": LENGTH,
    "temperature": 0,
    "ignore_eos": True,
    "return_token_ids": True,
}
UNSURE = {"below": 1000.0, "window": 3, "min_tokens": AT, "action": "end_thinking"}
ENDED = CHAT | {"confidence": {"mode": "stats", "early_stop": UNSURE}}


def params(fields: Mapping[str, Any], rule: EarlyStop | None) -> SamplingParams:
    common = {"max_tokens": LENGTH, "temperature": 0, "ignore_eos": True}
    made = SamplingParams(**{**common, "output_kind": FINAL_ONLY, **fields})
    ask_for_rows(made, 2, 3, made.output_kind == FINAL_ONLY, rule)
    return made


@asynccontextmanager
async def client(engine: ConfidenceAsyncLLM, folder: Path) -> AsyncIterator[httpx.AsyncClient]:
    args = parse_args([f"--model={folder}", *FLAGS])
    # vLLM copies the flag when it makes an engine of the flags.
    args.structured_outputs_config.reasoning_parser = args.reasoning_parser
    app = await build_confidence_app(engine, args, ConfidenceSettings())
    transport = httpx.ASGITransport(app)
    try:
        async with httpx.AsyncClient(
            transport=transport, base_url="http://tiny", timeout=300
        ) as http:
            yield http
    finally:
        forget_http_metrics()


def forget_http_metrics() -> None:
    """They count the requests of the first app of a process, and other tests have one as well."""
    known = REGISTRY._names_to_collectors
    for collector in {one for name, one in known.items() if name.startswith("http_")}:
        REGISTRY.unregister(collector)


async def leave(engine: ConfidenceAsyncLLM, tokens: int) -> None:
    """Take so many tokens of two streamed answers and go, as a lost client does."""
    asked = params({**SAMPLED, "output_kind": DELTA, "n": 2}, RULE)
    async with aclosing(engine.generate(tokens_input(PROMPT), asked, f"left-{tokens}")) as results:
        seen = 0
        async for result in results:
            seen += len(result.outputs[0].token_ids)
            if seen > 2 * tokens:
                return


class Run:
    """What came out of the one engine.

    Attributes:
        left: requests that the client knows after others were left.
    """

    def __init__(self) -> None:
        self.thinking: ThinkingTokens | None = None
        self.answers: dict[str, list[Answer]] = {}
        self.responses: dict[str, httpx.Response] = {}
        self.left = -1

    async def ask(self, folder: Path) -> None:
        async with small_engine(folder, reasoning_parser="qwen3") as engine:
            self.thinking = thinking_tokens(engine.vllm_config)
            for name, (prompt, fields, rule) in ASKED.items():
                self.answers[name] = await ask(engine, name, prompt, params(fields, rule))
            for tokens in (2, AT + 3):
                await leave(engine, tokens)
            self.left = len(engine.output_processor.request_states)
            (ended,) = self.answers["ended"]
            before, left = ended.ids[: AT + 1], LENGTH - AT - 1
            rest = params({"max_tokens": left}, None)
            self.answers["rest"] = await ask(engine, "rest", [*PROMPT, *before], rest)
            async with client(engine, folder) as http:
                for name, (route, body) in BODIES.items():
                    self.responses[name] = await http.post(route, json=body)


ROUTE = "/v1/chat/completions"
ANY_WORD = {"answer": {"extract": "regex", "pattern": "[a-zA-Z]+"}}
BODIES: dict[str, tuple[str, dict[str, Any]]] = {
    "whole": (ROUTE, CHAT),
    "ended": (ROUTE, ENDED),
    "streamed": (ROUTE, ENDED | {"stream": True, "stream_options": {"include_usage": True}}),
    # These two think until they may have no more tokens.
    "traces": (
        "/v1/think/chat/completions",
        CHAT
        | {"think": {"budget": 2, "calibrate": "none", "window": 3, "traces": "full"} | ANY_WORD},
    ),
    "penalty": (ROUTE, ENDED | {"presence_penalty": 0.5}),
    "completion": (
        "/v1/completions",
        {"model": "tiny", "prompt": "Hi", "confidence": ENDED["confidence"]},
    ),
}


@pytest.fixture(scope="module")
def run(model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    made = Run()
    asyncio.run(made.ask(write_tiny_model(model_path, tmp_path_factory.mktemp("tiny"))))
    return made


def test_the_tokens_are_the_parser_s(run: Run) -> None:
    assert run.thinking == THINKING


def test_the_model_goes_on_behind_the_end_of_its_thinking(run: Run) -> None:
    (whole,), (ended,), (rest,) = (run.answers[name] for name in ("whole", "ended", "rest"))
    assert ended.ids[:AT] == whole.ids[:AT]
    assert ended.ids[AT] == END_THINK
    assert ended.ids[AT + 1 :] == rest.ids
    assert (ended.finish_reason, ended.stop_reason) == ("length", None)
    assert ended.thinking_tokens == AT
    assert ended.text == f"{whole.text[: ended.text.index('</think>')]}</think>{rest.text}"
    assert whole.thinking_tokens is None


def test_every_token_has_a_row_of_what_the_model_itself_thinks(run: Run) -> None:
    (whole,), (ended,), (rest,) = (run.answers[name] for name in ("whole", "ended", "rest"))
    assert ended.rows.token_ids.tolist() == ended.ids
    expected = [*whole.confidences[: AT + 1], *rest.confidences]
    np.testing.assert_allclose(ended.confidences, expected, atol=1e-4)
    # The likeliest tokens are those that it would have taken, and not the one that it had to.
    assert ended.rows.candidate_ids[AT, 0] == whole.ids[AT]
    assert ended.rows.logprobs[AT] < ended.rows.candidate_logprobs[AT, 0]


@pytest.mark.parametrize(
    ("one", "other"), [("ended", "streamed"), ("sampled", "sampled, streamed")]
)
def test_a_stream_is_the_same_answer(run: Run, one: str, other: str) -> None:
    for whole, streamed in zip(run.answers[one], run.answers[other], strict=True):
        assert (streamed.ids, streamed.text) == (whole.ids, whole.text)
        assert streamed.thinking_tokens == whole.thinking_tokens == AT


def test_each_of_several_answers_is_sampled_for_itself(run: Run) -> None:
    ended, whole = run.answers["sampled"], run.answers["sampled, whole"]
    assert [one.ids[:AT] for one in ended] == [one.ids[:AT] for one in whole]
    rests = {tuple(one.ids[AT + 1 :]) for one in ended}
    assert len(rests) == len(ended)
    # A seed that began anew would draw for the rest what it has drawn for the thinking.
    assert all(one.ids[AT] == END_THINK and len(one.ids) == LENGTH for one in ended)


def test_more_than_one_token_is_put_in(run: Run) -> None:
    (phrased,) = run.answers["with a phrase"]
    assert phrased.ids[AT : AT + 3] == [*PHRASE, END_THINK]
    assert (len(phrased.ids), phrased.thinking_tokens) == (LENGTH, AT)


def test_the_answer_gets_no_more_tokens_than_it_may_have(run: Run) -> None:
    (short,) = run.answers["at the last token"]
    assert (len(short.ids), short.ids[AT], short.finish_reason) == (AT + 1, END_THINK, "length")


def test_nothing_is_put_in_where_nothing_is_thought(run: Run) -> None:
    (over,), (was_over,) = run.answers["thinking is over"], run.answers["thinking was over"]
    assert (over.ids, over.thinking_tokens) == (was_over.ids, None)
    (itself,) = run.answers["by itself"]
    assert itself.ids[0] == END_THINK
    assert itself.thinking_tokens is None


def test_an_answer_may_end_with_its_thinking(run: Run) -> None:
    (ended,) = run.answers["ends with it"]
    assert (len(ended.ids), ended.finish_reason, ended.stop_reason) == (AT + 1, "stop", END_THINK)


def test_over_http_it_is_one_answer(run: Run) -> None:
    answer, whole = run.responses["ended"].json(), run.responses["whole"].json()
    assert run.responses["ended"].status_code == 200, answer
    (choice,) = answer["choices"]
    assert choice["token_ids"][AT] == END_THINK
    told = choice["early_stop"]
    assert (told["token"], told["action"], told["window"]) == (AT, "end_thinking", 3)
    assert (choice["finish_reason"], choice["stop_reason"]) == ("length", None)
    assert choice["message"]["reasoning"]
    assert choice["message"]["content"]
    assert choice["logprobs"]["confidence_summary"]["mean_confidence"] > 0
    assert answer["usage"]["prompt_tokens"] == whole["usage"]["prompt_tokens"]
    assert answer["usage"]["completion_tokens"] == LENGTH


def test_over_http_it_is_one_stream(run: Run) -> None:
    (whole,) = run.responses["ended"].json()["choices"]
    lines = run.responses["streamed"].text.splitlines()
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines if "data: {" in line]
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    for name in ("reasoning", "content"):
        pieces = [choice["delta"].get(name) or "" for choice in choices]
        assert "".join(pieces) == whole["message"][name]
    assert [c["finish_reason"] for c in choices if c["finish_reason"]] == ["length"]
    assert choices[-1]["early_stop"] == whole["early_stop"]
    assert chunks[-1]["usage"]["completion_tokens"] == LENGTH


def test_what_was_thought_is_not_read_for_an_answer(run: Run) -> None:
    answer = run.responses["traces"].json()
    assert run.responses["traces"].status_code == 200, answer
    message = answer["choices"][0]["message"]
    assert message["reasoning"]
    traces = answer["think"]["traces"]
    assert [(trace["text"], trace["answer"]) for trace in traces] == [("", None)] * 2
    assert answer["usage"]["completion_tokens"] == 2 * LENGTH


def test_a_client_that_leaves_ends_what_is_asked_for_it(run: Run) -> None:
    assert run.left == 0


@pytest.mark.parametrize(
    ("name", "field"),
    [("penalty", "presence_penalty"), ("completion", "confidence.early_stop.action")],
)
def test_what_cannot_be_done_is_a_400(run: Run, name: str, field: str) -> None:
    response = run.responses[name]
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == field
