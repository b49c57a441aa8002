"""conf_server.client asks both servers."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator

import pytest

from conf_server.client import AsyncClient, Client, ServerError, UnavailableError
from tests.server import Server

QUESTION = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with Client(server.url, api_key=server.api_key) as client:
        yield client


def test_scores(client: Client) -> None:
    options = {"mode": "per_token", "metrics": ["perplexity"], "top_logprobs": 2}
    paris, berlin = client.score(
        prompt="The capital of France is", completions=[" Paris.", " Berlin."], **options
    )
    assert paris.logprob is not None
    assert berlin.logprob is not None
    assert paris.logprob > berlin.logprob
    assert paris.tokens is not None
    assert sum(token.logprob or 0.0 for token in paris.tokens) == pytest.approx(paris.logprob)
    assert len(paris.tokens[0].top_logprobs) == 2
    assert paris.perplexity == pytest.approx(math.exp(-paris.logprob / paris.num_tokens))
    ids = [token.token_id for token in paris.tokens]
    again = client.score(prompt="The capital of France is", completion={"token_ids": ids})
    assert again.logprob == pytest.approx(paris.logprob, abs=1e-3)


def test_a_first_token_with_nothing_before_it_has_no_number(client: Client) -> None:
    found = client.score(prompt="", completion=" Paris", add_special_tokens=False)
    assert (found.logprob, found.mean_logprob, found.perplexity) == (None, None, None)


def test_more_items_than_a_request_may_have(client: Client) -> None:
    """The servers take 64 texts."""
    items = [{"prompt": "One, two,", "completions": [" three", " four"]} for _ in range(50)]
    found = client.score(items=items, mode="stats")
    assert [(one.index, one.item) for one in found] == [(n, n // 2) for n in range(100)]
    assert found[0].logprob == pytest.approx(found[98].logprob, abs=1e-3)
    assert found[0].logprob > found[1].logprob


def test_an_open_turn(client: Client) -> None:
    turn = {"role": "assistant", "content": "The capital of France is"}
    messages = [*QUESTION, turn]
    left_open = client.score(messages=messages, continue_final_message=True, completion=" Paris")
    closed = client.score(messages=messages, completion=" Paris")
    assert left_open.logprob is not None
    assert closed.logprob is not None
    assert left_open.logprob > closed.logprob


def test_uncertainty(client: Client) -> None:
    one = client.uncertainty(
        messages=QUESTION,
        methods=["perplexity", "lexical_similarity_rougeL"],
        n_samples=3,
        return_samples=True,
        max_tokens=8,
        seed=1,
    )
    assert "Paris" in one.answer.text
    assert one.estimates.keys() == {"perplexity", "lexical_similarity_rougeL"}
    assert one.samples is not None
    assert len(one.samples) == 3
    many = client.uncertainty(
        prompt=["The capital of France is", "One, two,"], methods=["perplexity"], max_tokens=4
    )
    assert [len(found.estimates) for found in many] == [1, 1]


def test_methods_and_the_model(client: Client) -> None:
    methods = client.methods()
    assert "perplexity" in methods.available
    assert "perplexity" in methods.groups["fast"]
    model = client.served_model()
    assert (model.name, model.max_model_len) == ("smol", 2048)


def test_a_chat_whole_and_streamed(client: Client) -> None:
    asked = {
        "messages": QUESTION,
        "confidence": {"mode": "summary", "metrics": ["perplexity"]},
        "max_tokens": 8,
        "temperature": 0,
    }
    whole = client.chat(**asked)
    assert whole.tokens is not None
    assert len(whole.tokens) == 8
    assert whole.tokens[0].confidence is not None
    assert whole.uncertainty["perplexity"].exact
    chunks = list(client.stream_chat(**asked))
    assert "".join(chunk.text for chunk in chunks) == whole.text
    tokens = [token for chunk in chunks for token in chunk.tokens or ()]
    assert [token.token for token in tokens] == [token.token for token in whole.tokens]
    (summary,) = [chunk.confidence_summary for chunk in chunks if chunk.confidence_summary]
    assert summary.keys() == (whole.confidence_summary or {}).keys()


def test_hidden_states(client: Client) -> None:
    found = client.hidden_states(prompt="The capital of France is", layers=[15, -1], pooling="none")
    assert found.states.shape == (2, found.num_tokens, 576)
    assert found.layers == (15, 30)


def test_errors(client: Client, server: Server) -> None:
    with pytest.raises(ServerError) as caught:
        client.score(prompt="p", completions=[])
    assert (caught.value.status, caught.value.param) == (400, "completions")
    with pytest.raises(ServerError) as caught:
        Client(server.url, api_key="wrong").methods()
    assert caught.value.status == 401
    with pytest.raises(ServerError) as caught:
        client.score(prompt="p", completion="c", model="other")
    assert (caught.value.status, caught.value.param) == (404, "model")
    assert not isinstance(caught.value, UnavailableError)


def test_the_asynchronous_client(server: Server) -> None:
    async def ask() -> list[float | None]:
        async with AsyncClient(server.url, api_key=server.api_key, concurrency=4) as client:
            contexts = [f"{n}, {n + 1}," for n in range(20)]
            found = await asyncio.gather(
                *(client.score(prompt=text, completion=" the") for text in contexts)
            )
            return [one.logprob for one in found]

    assert all(logprob is not None and logprob < 0 for logprob in asyncio.run(ask()))
