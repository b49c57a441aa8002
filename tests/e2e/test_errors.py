"""Bad input is refused with the field's name before the engine sees it; nothing leaks."""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
from typing import Any

import httpx
import openai
import pytest

from tests.server import Server

only_vllm = pytest.mark.only_vllm

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}
COMPLETION: dict[str, Any] = {"prompt": "Hi", "max_tokens": 2}
SCORE: dict[str, Any] = {"prompt": "Hi", "completion": " there"}
UNCERTAINTY: dict[str, Any] = {"messages": CHAT["messages"], "max_tokens": 2}

PICTURE: dict[str, Any] = {
    "messages": [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "What is this?"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}},
            ],
        }
    ]
}


def uncertainty(**options: Any) -> dict[str, Any]:
    return UNCERTAINTY | {"uncertainty": options}


MANY = {"vllm": 64, "transformers": 20}
"""Requests at once: more than transformers answers at a time, which is 16."""

BAD_BODIES: list[Any] = [
    ("/v1/chat/completions", CHAT | {"confidence": {"mode": "all"}}, "confidence.mode"),
    ("/v1/chat/completions", CHAT | {"confidence": {"top_k": 0}}, "confidence.top_k"),
    ("/v1/chat/completions", CHAT | {"confidence": {"top_k": 21}}, "confidence.top_k"),
    ("/v1/chat/completions", CHAT | {"confidence": {"top_k": "5"}}, "confidence.top_k"),
    ("/v1/chat/completions", CHAT | {"confidence": {"window": -1}}, "confidence.window"),
    ("/v1/chat/completions", CHAT | {"confidence": {"metrics": ["x"]}}, "confidence.metrics.0"),
    ("/v1/chat/completions", CHAT | {"confidence": {"topk": 5}}, "confidence.topk"),
    ("/v1/chat/completions", CHAT | {"confidence": "stats"}, "confidence"),
    pytest.param(
        "/v1/chat/completions",
        CHAT | {"confidence": {}, "use_beam_search": True},
        "confidence",
        marks=only_vllm("beam search"),
    ),
    pytest.param(
        "/v1/chat/completions",
        CHAT | {"confidence": {}, "logprobs": True, "logprob_token_ids": [1]},
        "confidence",
        marks=only_vllm("log-probabilities of chosen tokens"),
    ),
    *(
        (
            "/v1/chat/completions",
            CHAT | {"logprobs": True, "top_logprobs": shown, "confidence": {"mode": mode}},
            "top_logprobs",
        )
        for mode in ("per_token", "summary", "stats", "empty")
        for shown in (21, -1)
    ),
    ("/v1/chat/completions", CHAT | {"structured_outputs": [1]}, "structured_outputs"),
    ("/v1/chat/completions", CHAT | {"request_id": "\ud800"}, "request_id"),
    ("/v1/chat/completions", CHAT | {"priority": 2**63}, "priority"),
    *(
        pytest.param(path, body, "confidence", marks=only_vllm("the route"))
        for path, body in {
            "/v1/chat/completions/batch": {"messages": [CHAT["messages"]], "confidence": {}},
            "/v1/messages": CHAT | {"model": "smol", "confidence": {"bogus": 1}},
        }.items()
    ),
    pytest.param(
        "/v1/responses",
        {"input": "Hi", "confidence": {"bogus": 1}},
        "confidence.bogus",
        marks=only_vllm("the route"),
    ),
    *(
        ("/v1/completions", COMPLETION | {"logprobs": 21, "confidence": {"mode": mode}}, "logprobs")
        for mode in ("per_token", "summary", "stats", "empty")
    ),
    ("/v1/completions", COMPLETION | {"structured_outputs": "x"}, "structured_outputs"),
    ("/v1/completions", COMPLETION | {"confidence": {"top_k": 21}}, "confidence.top_k"),
    pytest.param(
        "/v1/completions",
        COMPLETION | {"confidence": {}, "echo": True},
        "confidence",
        marks=only_vllm("echo"),
    ),
    ("/v1/score", {"completion": " there"}, "prompt"),
    ("/v1/score", {"prompt": "Hi"}, "completion"),
    ("/v1/score", SCORE | {"completion": ""}, "completion"),
    ("/v1/score", SCORE | {"completion": []}, "completion"),
    ("/v1/score", SCORE | {"completion": 5}, "completion"),
    ("/v1/score", SCORE | {"completions": [" a"]}, "completion"),
    ("/v1/score", {"prompt": "Hi", "completions": []}, "completions"),
    ("/v1/score", {"prompt": "Hi", "completions": ["a", ""]}, "completions.1"),
    ("/v1/score", {"prompt": "Hi", "completions": ["a"] * 65}, "completions"),
    ("/v1/score", SCORE | {"messages": CHAT["messages"]}, "prompt"),
    ("/v1/score", {"messages": [], "completion": "a"}, "messages"),
    ("/v1/score", {"messages": [{"role": "user"}, 3], "completion": "a"}, "messages.1"),
    ("/v1/score", {"messages": "Hi", "completion": "a"}, "messages"),
    ("/v1/score", SCORE | {"prompt": [-1]}, "prompt"),
    ("/v1/score", SCORE | {"prompt": [True]}, "prompt"),
    ("/v1/score", SCORE | {"completion": [49152]}, "completion"),
    ("/v1/score", SCORE | {"completion": [7] * 2048}, "completion"),
    ("/v1/score", SCORE | {"mode": "loud"}, "mode"),
    ("/v1/score", SCORE | {"mode": "stats", "confidence": {"mode": "stats"}}, "mode"),
    ("/v1/score", SCORE | {"top_logprobs": 21}, "top_logprobs"),
    ("/v1/score", SCORE | {"top_logprobs": 21, "mode": "stats"}, "top_logprobs"),
    ("/v1/score", SCORE | {"priority": 2**63}, "priority"),
    ("/v1/score", SCORE | {"priority": 10**30}, "priority"),
    ("/v1/score", SCORE | {"request_id": "\ud800"}, "request_id"),
    ("/v1/score", SCORE | {"top_logprobs": -1}, "top_logprobs"),
    ("/v1/score", SCORE | {"metrics": ["magic"]}, "metrics.0"),
    ("/v1/score", SCORE | {"confidence": {"top_k": 21}}, "confidence.top_k"),
    ("/v1/score", SCORE | {"compeltion": "a"}, "compeltion"),
    ("/v1/score", SCORE | {"items": [SCORE]}, "completion"),
    ("/v1/score", {"items": []}, "items"),
    ("/v1/score", {"items": [SCORE, {"prompt": "Hi"}]}, "items.1.completion"),
    ("/v1/score", {"items": [SCORE, SCORE | {"completion": [99999]}]}, "items.1.completion"),
    ("/v1/score", {"items": [SCORE] * 65}, "items"),
    ("/v1/score", {"text_1": "a", "text_2": "b"}, "text_1"),
    ("/v1/score", {"queries": "a", "documents": ["b"]}, "queries"),
    ("/v1/uncertainty", {"max_tokens": 2}, "messages"),
    ("/v1/uncertainty", UNCERTAINTY | {"structured_outputs": 5}, "structured_outputs"),
    ("/v1/uncertainty", UNCERTAINTY | {"request_id": "\ud800"}, "request_id"),
    ("/v1/uncertainty", UNCERTAINTY | {"priority": 2**63}, "priority"),
    ("/v1/uncertainty", UNCERTAINTY | {"prompt": "Hi"}, "messages"),
    ("/v1/uncertainty", {"messages": []}, "messages"),
    ("/v1/uncertainty", {"prompt": ["a", "b"]}, "prompt"),
    ("/v1/uncertainty", {"prompt": ""}, "prompt"),
    ("/v1/uncertainty", uncertainty(methods=["magic"]), "uncertainty.methods"),
    ("/v1/uncertainty", uncertainty(methods=[]), "uncertainty.methods"),
    ("/v1/uncertainty", uncertainty(methods=["deg_mat"], similarity="nli"), "uncertainty.simil"),
    ("/v1/uncertainty", uncertainty(methods=["deg_mat"], similarity="x"), "uncertainty.simil"),
    ("/v1/uncertainty", uncertainty(n_samples=0), "uncertainty.n_samples"),
    ("/v1/uncertainty", uncertainty(methods=["deg_mat"], n_samples=101), "uncertainty.n_samples"),
    ("/v1/uncertainty", uncertainty(temperature=0), "uncertainty.temperature"),
    ("/v1/uncertainty", uncertainty(samples=3), "uncertainty.samples"),
    ("/v1/uncertainty", UNCERTAINTY | {"max_tokens": 200_000}, "max_tokens"),
    ("/v1/uncertainty", UNCERTAINTY | {"max_tokens": "many"}, "max_tokens"),
    ("/v1/uncertainty", UNCERTAINTY | {"n": 2}, "n"),
    ("/v1/uncertainty", UNCERTAINTY | {"temperature": 0.5}, "temperature"),
    ("/v1/uncertainty", UNCERTAINTY | {"temperature": 0}, "temperature"),
    ("/v1/uncertainty", UNCERTAINTY | {"n": 0}, "n"),
    ("/v1/uncertainty", UNCERTAINTY | {"n": True}, "n"),
    ("/v1/uncertainty", UNCERTAINTY | {"prompt_logprobs": 0}, "prompt_logprobs"),
    ("/v1/uncertainty", UNCERTAINTY | {"logprobs": 0}, "logprobs"),
    ("/v1/uncertainty", UNCERTAINTY | {"best_of": 0}, "best_of"),
    ("/v1/uncertainty", UNCERTAINTY | {"answer": {"finished": True}}, "answer"),
    ("/v1/uncertainty", UNCERTAINTY | {"answer": {"text": "a", "token_ids": [1]}}, "answer"),
    ("/v1/uncertainty", UNCERTAINTY | {"answer": {"token_ids": [49152]}}, "answer"),
    ("/v1/uncertainty", UNCERTAINTY | {"answer": {"text": "a", "finished": "yes"}}, "answer"),
    (
        "/v1/uncertainty",
        UNCERTAINTY | {"continue_final_message": True, "add_generation_prompt": True},
        "continue_final_message",
    ),
    ("/v1/score", SCORE | {"continue_final_message": True}, "continue_final_message"),
    ("/v1/score", SCORE | {"completion": {"text": ""}}, "completion"),
    (
        "/v1/score",
        {
            "messages": CHAT["messages"],
            "completion": "a",
            "chat_template_kwargs": {"add_generation_prompt": 1},
        },
        "chat_template_kwargs.add_generation_prompt",
    ),
    ("/v1/uncertainty", UNCERTAINTY | {"confidence": {"top_k": 1}}, "confidence"),
    ("/v1/uncertainty", UNCERTAINTY | {"logprob_token_ids": [*range(10)]}, "logprob_token_ids"),
    ("/v1/uncertainty", uncertainty(methods=["p_true"]) | PICTURE, "uncertainty.methods"),
    ("/v1/uncertainty", UNCERTAINTY | {"samples": ["a"]}, "answer"),
    ("/v1/uncertainty", UNCERTAINTY | {"answer": ""}, "answer"),
    ("/v1/uncertainty", UNCERTAINTY | {"answer": "a", "samples": ["a", ""]}, "samples.1"),
    ("/v1/uncertainty", UNCERTAINTY | {"answer": "a " * 2048}, "answer"),
    ("/v1/uncertainty", {"prompt": [49_152_999]}, "prompt"),
    ("/v1/uncertainty", {"prompt": [2**70]}, "prompt"),
    ("/v1/uncertainty", UNCERTAINTY | {"max_tokens": 0}, "max_tokens"),
    ("/v1/uncertainty", UNCERTAINTY | {"max_tokens": "200000"}, "max_tokens"),
    (
        "/v1/uncertainty",
        {"prompt": "Hi", "max_completion_tokens": 1, "max_tokens": 200_000},
        "max_tokens",
    ),
    # The same in a stream: no event after a 200.
    ("/v1/completions", COMPLETION | {"thinking_token_budget": 5, "stream": True}, ""),
    ("/v1/completions", {"prompt": [10**30], "max_tokens": 2, "stream": True}, ""),
    ("/v1/chat/completions", CHAT | {"allowed_token_ids": [10**6], "stream": True}, "allowed"),
    ("/v1/uncertainty", UNCERTAINTY | {"max_tokens": 0, "stream": True}, "max_tokens"),
    (
        "/v1/uncertainty",
        UNCERTAINTY | {"logit_bias": {"99999999": 5}, "stream": True},
        "logit_bias",
    ),
    pytest.param(
        "/v1/uncertainty",
        {"prompt": "a " * 3000, "stream": True},
        "input_",
        marks=only_vllm("a name of its own for a prompt's length"),
    ),
    (
        "/v1/uncertainty",
        uncertainty(methods=["monte_carlo_sequence_entropy"])
        | {"answer": "a", "samples": ["a", "a " * 2048], "stream": True},
        "samples.1",
    ),
    # What is given counts, whatever the methods read of it.
    ("/v1/uncertainty", UNCERTAINTY | {"answer": "a", "samples": ["a"] * 101}, "samples"),
    (
        "/v1/uncertainty",
        uncertainty(methods=["lexical_similarity_rouge1"])
        | {"answer": "a", "samples": ["a " * 1400] * 100},
        "samples",
    ),
    (
        "/v1/uncertainty",
        uncertainty(methods=["lexical_similarity_rouge1"], n_samples=100)
        | {"answer": "a " * 1400, "max_tokens": 1310},
        "max_tokens",
    ),
    (
        "/v1/uncertainty",
        {"prompt": "Hi", "answer": "a", "truncate_prompt_tokens": 1},
        "truncate_prompt_tokens",
    ),
]


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/v1/uncertainty", UNCERTAINTY | {"answer": "\ud800"}, "answer"),
        (
            "/v1/uncertainty",
            {"messages": [{"role": "user", "content": "\ud800"}]},
            "messages.0.content",
        ),
        ("/v1/score", SCORE | {"completion": "\ud800"}, "completion"),
        ("/v1/score", {"items": [SCORE, SCORE | {"prompt": "\ud800"}]}, "items.1.prompt"),
    ],
)
def test_half_a_surrogate_pair_is_no_text(server: Server, path: str, body: Any, field: str) -> None:
    response = server.post(path, body)
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == field


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", CHAT),
        ("/v1/completions", COMPLETION),
        ("/v1/score", SCORE),
        ("/v1/uncertainty", UNCERTAINTY),
        pytest.param(
            "/v1/responses",
            {"input": "Hi", "max_output_tokens": 2},
            marks=only_vllm("the route"),
        ),
    ],
)
def test_a_null_request_id_is_none(server: Server, path: str, body: dict[str, Any]) -> None:
    ids = set()
    for _ in range(2):
        response = server.post(path, body | {"request_id": None})
        assert response.status_code == 200, response.text
        ids.add(response.json()["id"])
    assert len(ids) == 2


def test_one_model(server: Server) -> None:
    client = server.client()
    listed = {card.id: card for card in client.models.list()}
    adapters = {"adapter"} if server.kind == "vllm" else set()
    assert set(listed) == {"smol"} | adapters
    for name, card in listed.items():
        assert client.models.retrieve(name).root == card.root
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("some/body")
    assert caught.value.param == "model"


def test_deep_json_is_a_bad_request(server: Server) -> None:
    content: Any = "deep"
    for _ in range(600):
        content = [content]
    response = server.post("/v1/uncertainty", {"messages": [{"role": "user", "content": content}]})
    assert response.status_code == 400, response.text


@pytest.mark.parametrize(("path", "body", "field"), BAD_BODIES)
def test_a_bad_body_is_a_400_that_names_the_field(
    server: Server, path: str, body: dict[str, Any], field: str
) -> None:
    before = server.tokens_read()
    response = server.post(path, body)
    error = response.json()["error"]
    assert response.status_code == error["code"] == 400, response.text
    assert (error["param"] or "").removeprefix("body.").startswith(field)
    assert error["message"]
    assert server.tokens_read() == before


@pytest.mark.parametrize(
    "path", ["/v1/chat/completions", "/v1/completions", "/v1/score", "/v1/uncertainty"]
)
def test_unreadable_bodies(server: Server, path: str) -> None:
    with server.http() as http:
        json_type = {"content-type": "application/json"}
        for content, headers in ((b"{", json_type), (b"[]", json_type), (b"{}", {})):
            response = http.post(path, content=content, headers=headers)
            assert response.status_code in (400, 415), response.text
            assert response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", CHAT),
        ("/v1/completions", COMPLETION),
        ("/v1/score", SCORE),
        ("/v1/uncertainty", UNCERTAINTY),
    ],
)
def test_keys_and_models(server: Server, path: str, body: dict[str, Any]) -> None:
    for headers in ({}, {"Authorization": "Bearer wrong"}):
        response = httpx.post(server.url + path, json=body, headers=headers)
        assert response.status_code == 401
    response = server.post(path, body | {"model": "nobody"})
    assert response.status_code == 404
    assert response.json()["error"]["param"] == "model"


def test_one_bad_item_keeps_all_from_the_engine(server: Server) -> None:
    before = server.tokens_read()
    items = [SCORE, SCORE, {"prompt": "x", "completion": [50000]}]
    assert server.post("/v1/score", {"items": items}).status_code == 400
    assert server.tokens_read() == before


def test_curl(server: Server) -> None:
    command = [
        "curl",
        "--silent",
        "--show-error",
        "--fail-with-body",
        f"{server.url}/v1/score",
        "--header",
        f"Authorization: Bearer {server.api_key}",
        "--json",
        json.dumps(SCORE),
    ]
    done = subprocess.run(command, capture_output=True, check=True, text=True)
    assert json.loads(done.stdout)["object"] == "score"


def wait_until_idle(server: Server, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if server.unfinished() == 0:
            return True
        time.sleep(0.2)
    return False


async def test_a_client_that_leaves_frees_its_work(server: Server) -> None:
    """Far more work than the wait allows, for streams, an answer, a score and estimates."""
    headers = {"Authorization": f"Bearer {server.api_key}"}
    long_chat = CHAT | {
        "max_tokens": 1900,
        "ignore_eos": True,
        "n": 8,
        "confidence": {"mode": "summary"},
    }
    long_score = {"items": [{"prompt": [i + 1] * 1000, "completion": [5] * 900} for i in range(60)]}
    long_estimate = UNCERTAINTY | {
        "max_tokens": 1900,
        "ignore_eos": True,
        "uncertainty": {"methods": ["monte_carlo_sequence_entropy"], "n_samples": 8},
    }
    async with httpx.AsyncClient(base_url=server.url, headers=headers, timeout=300) as client:

        async def leave_stream(path: str, body: dict[str, Any]) -> None:
            async with client.stream("POST", path, json=body | {"stream": True}) as response:
                async for _ in response.aiter_lines():
                    return

        async def leave(path: str, body: dict[str, Any]) -> None:
            with pytest.raises(httpx.ReadTimeout):
                await client.post(path, json=body, timeout=3)

        await asyncio.gather(
            leave_stream("/v1/chat/completions", long_chat),
            leave_stream("/v1/uncertainty", long_estimate),
            leave("/v1/chat/completions", long_chat),
            leave("/v1/score", long_score),
            leave("/v1/uncertainty", long_estimate),
        )
    assert await asyncio.to_thread(wait_until_idle, server, 20)


async def test_a_client_that_leaves_a_whole_answer_leaves_no_traceback(server: Server) -> None:
    before = len(server.log.read_bytes())
    headers = {"Authorization": f"Bearer {server.api_key}"}
    score = {"items": [{"prompt": [i + 1] * 1000, "completion": [5] * 900} for i in range(20)]}
    estimate = UNCERTAINTY | {"max_tokens": 1900, "ignore_eos": True}
    async with httpx.AsyncClient(base_url=server.url, headers=headers) as client:

        async def leave(path: str, body: dict[str, Any]) -> None:
            with pytest.raises(httpx.ReadTimeout):
                await client.post(path, json=body, timeout=1)

        await asyncio.gather(leave("/v1/score", score), leave("/v1/uncertainty", estimate))
    assert await asyncio.to_thread(wait_until_idle, server, 20)
    await asyncio.sleep(0.5)  # the log is another process's
    logged = server.log.read_bytes()[before:].decode(errors="replace")
    assert "Traceback" not in logged
    assert "Exception" not in logged
    for path in ("/v1/score", "/v1/uncertainty"):
        assert len([line for line in logged.splitlines() if path in line]) <= 1


@only_vllm("a prefix cache")
def test_a_cache_salt_keeps_a_cache_to_itself(server: Server) -> None:
    body = {"prompt": list(range(7000, 7400)), "completion": [5]}

    def cached(salt: str | None) -> int:
        given = body if salt is None else body | {"cache_salt": salt}
        usage = server.post("/v1/score", given).json()["usage"]
        tokens: int = usage["prompt_tokens_details"]["cached_tokens"]
        return tokens

    for salt in ("one", "another", None):
        assert cached(salt) == 0
        assert cached(salt) > 0


async def test_many_at_once_each_get_their_own_answer(server: Server) -> None:
    count = MANY[server.kind]
    async with server.async_client() as client:

        async def ask(number: int) -> str:
            answer = await client.completions.create(
                model="smol",
                prompt=f"{number}, {number + 1}, {number + 2},",
                max_tokens=4,
                temperature=0,
                logprobs=1,
                extra_body={"confidence": {"mode": "summary"}},
            )
            logprobs = answer.choices[0].logprobs
            assert logprobs is not None
            assert len(logprobs.model_dump()["confidence"]) == 4
            assert "".join(logprobs.tokens or ()) == answer.choices[0].text
            return answer.choices[0].text

        answers = await asyncio.gather(*(ask(number) for number in range(count)))
    right = sum(str(number + 3) in answer for number, answer in enumerate(answers))
    assert right >= 0.75 * count  # a small model, but it can count
    assert wait_until_idle(server, 10)


@only_vllm("checks of its own")
@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/v1/responses", {"input": "Hi", "stop_token_ids": [10**9]}, "stop_token_ids"),
        (
            "/v1/completions",
            COMPLETION | {"routed_experts_prompt_start": 99},
            "routed_experts_prompt_start",
        ),
    ],
)
def test_what_vllm_checks_late_is_refused_before_a_stream_begins(
    server: Server, path: str, body: dict[str, Any], field: str
) -> None:
    response = server.post(path, body | {"stream": True})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == field
