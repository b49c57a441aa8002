"""POST /v1/score on the real server, against transformers in float32."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conf_server.stats.metrics import METRICS
from tests.reference import Reference, metrics_by_definition
from tests.server import Server

LONG = "In the beginning there was a number, and the number was written down. " * 30
TEXTS = [
    ("The capital of France is", " Paris, and it lies on the Seine."),
    ("Größe: 40 €\n名前は", "田中です。😀 Ça va ?\n"),
    (LONG, "Then it was read aloud. " * 12),
    ("", "A text on its own has no log-probability at its first token."),
]


def score(server: Server, **body: Any) -> list[dict[str, Any]]:
    response = server.post("/v1/score", body)
    assert response.status_code == 200, response.text
    return response.json()["data"]


@pytest.mark.parametrize(("prompt", "completion"), TEXTS)
def test_log_probabilities_are_those_of_transformers(
    server: Server, reference: Reference, prompt: str, completion: str
) -> None:
    ids = reference.tokenizer(prompt + completion)["input_ids"]
    expected = reference.token_logprobs(ids)
    # Twice: the second time, what whole blocks there are come from the prefix cache.
    for _ in range(2):
        (item,) = score(server, prompt=prompt, completion=completion, mode="per_token")
        tokens = item["tokens"]
        assert [token["token_id"] for token in tokens] == ids[-item["num_tokens"] :]
        got = np.array([token["logprob"] for token in tokens if token["logprob"] is not None])
        np.testing.assert_allclose(got, expected[-len(got) :], atol=1e-3)
        assert item["logprob"] == pytest.approx(expected[-len(got) :].sum(), abs=2e-2)
        assert item["mean_logprob"] == pytest.approx(expected[-len(got) :].mean(), abs=1e-3)
        assert item["perplexity"] == pytest.approx(math.exp(-item["mean_logprob"]), rel=1e-6)
    if prompt == "":
        assert tokens[0]["logprob"] is None
        assert len(got) == len(ids) - 1
    else:
        assert "".join(token["token"] for token in tokens).endswith(completion)


def test_statistics_are_those_of_the_whole_distribution(
    server: Server, reference: Reference
) -> None:
    prompt, completion = TEXTS[0]
    ids = reference.tokenizer(prompt + completion)["input_ids"]
    (item,) = score(
        server,
        prompt=prompt,
        completion=completion,
        mode="per_token",
        top_logprobs=3,
        confidence={"top_k": 5, "window": 4},
    )
    rows = reference.logprobs(ids)[-item["num_tokens"] :]
    top = -np.sort(-rows, axis=1)
    confidence = -top[:, :5].mean(axis=1)
    entropy = -(np.exp(rows) * rows).sum(axis=1)
    tokens = item["tokens"]
    np.testing.assert_allclose([t["confidence"] for t in tokens], confidence, atol=1e-3)
    np.testing.assert_allclose([t["entropy"] for t in tokens], entropy, atol=1e-3)
    shown = [[candidate["logprob"] for candidate in t["top_logprobs"]] for t in tokens]
    np.testing.assert_allclose(shown, top[:, :3], atol=1e-3)
    own = np.array([t["logprob"] for t in tokens])
    ranks = (rows > own[:, None] + 1e-3).sum(axis=1) + 1
    np.testing.assert_allclose([t["rank"] for t in tokens], ranks, rtol=1e-2)
    assert list(item["confidence_summary"]) == [
        "mean_confidence",
        "tail_4_mean_conf",
        "min_sliding_4_mean_conf",
        "bottom_0.1_sliding_4_mean_conf",
        "bottom_0.5_sliding_4_mean_conf",
    ]
    assert item["confidence_summary"]["mean_confidence"] == pytest.approx(
        confidence.mean(), abs=1e-3
    )
    assert item["entropy_exact"]
    expected = metrics_by_definition(rows, ids[-item["num_tokens"] :])
    assert set(item["uncertainty"]) == set(expected)
    for name, metric in item["uncertainty"].items():
        assert metric["exact"]
        assert metric["value"] == pytest.approx(expected[name], rel=2e-3, abs=2e-3), name


@pytest.mark.only_vllm("a prefix cache")
def test_a_completion_cached_beyond_its_context_is_scored_in_one_run(server: Server) -> None:
    ids = list(range(20_000, 20_500))
    body = {"prompt": ids[:150], "completion": ids[150:], "mode": "per_token"}
    answers = [server.post("/v1/score", body).json() for _ in range(2)]
    # The whole text is cached, and the hit ends with the context's last whole block.
    cached = [answer["usage"]["prompt_tokens_details"]["cached_tokens"] for answer in answers]
    assert cached[0] == 0
    assert 0 < cached[1] < 150
    first, again = (answer["data"][0] for answer in answers)
    assert first["num_tokens"] == 350
    np.testing.assert_allclose(
        [token["logprob"] for token in again["tokens"]],
        [token["logprob"] for token in first["tokens"]],
        atol=1e-3,
    )


@pytest.mark.only_vllm("a prefix cache")
def test_the_prefix_cache_is_used_and_reported(server: Server) -> None:
    context = list(range(2000, 2900))
    completions = [[5000 + n] * 5 for n in range(4)]
    response = server.post("/v1/score", {"prompt": context, "completions": completions})
    usage = response.json()["usage"]
    assert usage["prompt_tokens"] == usage["total_tokens"] == 4 * 905
    # One context is computed, three come from the cache (whole blocks of at most 128).
    assert usage["prompt_tokens_details"]["cached_tokens"] >= 3 * (900 - 128)


def test_numbers_do_not_depend_on_company_or_repetition(server: Server) -> None:
    items = [{"prompt": p, "completion": c} for p, c in TEXTS]
    alone = [score(server, **item)[0] for item in items]
    together = score(server, items=[*items, *items])
    for index, result in enumerate(together):
        expected = alone[index % len(items)]
        assert result["index"] == index
        assert result["num_tokens"] == expected["num_tokens"]
        assert result["is_greedy"] == expected["is_greedy"]
        assert result["logprob"] == pytest.approx(expected["logprob"], abs=1e-3)
        for key, value in expected["confidence_summary"].items():
            assert result["confidence_summary"][key] == pytest.approx(value, abs=1e-3)


def test_a_token_across_the_border_belongs_to_the_completion(
    server: Server, reference: Reference
) -> None:
    # "hel" + "lo" is one token in the whole text: nothing of it is context.
    (item,) = score(server, prompt="Say hel", completion="lo", mode="per_token")
    whole = reference.tokenizer("Say hello")["input_ids"]
    assert [token["token_id"] for token in item["tokens"]] == whole[-1:]
    assert item["tokens"][0]["token"] == " hello"


def test_messages_are_scored_after_the_rendered_chat(server: Server, reference: Reference) -> None:
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    context = reference.tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=False
    )
    tail = reference.tokenizer("The capital of France is Paris.")["input_ids"]
    expected = reference.token_logprobs([*context, *tail])[-len(tail) :]
    by_chat, by_ids = (
        score(server, messages=messages, completion="The capital of France is Paris.")[0],
        score(server, prompt=context, completion=tail)[0],
    )
    assert by_chat["logprob"] == pytest.approx(expected.sum(), abs=1e-3)
    assert by_ids["logprob"] == pytest.approx(by_chat["logprob"], abs=1e-3)
    assert by_chat["is_greedy"] is True


def test_a_clients_template_renders_the_chat(server: Server) -> None:
    template = "{{ messages[0].content }}, my dear"
    messages = [{"role": "user", "content": "Say hello"}]
    by_chat = score(server, messages=messages, chat_template=template, completion=" Bob")
    by_text = score(server, prompt="Say hello, my dear", completion=" Bob")
    assert by_chat[0]["logprob"] == pytest.approx(by_text[0]["logprob"], abs=1e-3)


def test_greedy_continuations_and_only_they_are_greedy(server: Server) -> None:
    generated = server.post(
        "/v1/completions",
        {"prompt": "The capital of France is", "max_tokens": 6, "temperature": 0},
    ).json()["choices"][0]["text"]
    right, wrong = score(
        server, prompt="The capital of France is", completions=[generated, " a potato peeler"]
    )
    assert right["is_greedy"] is True
    assert wrong["is_greedy"] is False
    assert right["logprob"] > wrong["logprob"]


def test_scores_are_those_of_the_generation(server: Server) -> None:
    """What the model said when it generated is what it says when it is forced."""
    answer = server.post(
        "/v1/completions",
        {
            "prompt": "Once upon a time",
            "max_tokens": 20,
            "temperature": 0,
            "logprobs": 1,
            "return_token_ids": True,
            "confidence": {"metrics": METRICS},
        },
    ).json()["choices"][0]
    (item,) = score(
        server,
        prompt=answer["prompt_token_ids"],
        completion=answer["token_ids"],
        mode="summary",
        metrics=METRICS,
    )
    said, forced = answer["logprobs"], item["tokens"]
    np.testing.assert_allclose(
        [token["logprob"] for token in forced], said["token_logprobs"], atol=1e-3
    )
    np.testing.assert_allclose(
        [token["confidence"] for token in forced], said["confidence"], atol=1e-3
    )
    for token, generated in zip(forced, said["token_uncertainty"], strict=True):
        assert token["uncertainty"] == pytest.approx(generated, abs=1e-3)
    for name, metric in said["uncertainty"].items():
        assert item["uncertainty"][name]["value"] == pytest.approx(metric["value"], abs=1e-3)
    assert item["is_greedy"] is True


def test_scoring_beside_generation(server: Server, reference: Reference) -> None:
    """Forced and generated tokens share steps; neither sees the other."""
    prompt, completion = TEXTS[2]
    ids = reference.tokenizer(prompt + completion)["input_ids"]
    question = {"prompt": "The capital of France is", "max_tokens": 40, "temperature": 0}
    plain = server.post("/v1/completions", question).json()["choices"][0]["text"]
    with ThreadPoolExecutor() as pool:
        texts = [
            pool.submit(server.post, "/v1/completions", question | {"logprobs": shown})
            for shown in (None, 0, 5)
        ]
        scores = [
            pool.submit(score, server, prompt=prompt, completion=completion, cache_salt=str(n))
            for n in range(3)
        ]
        for answer in texts:
            assert answer.result().json()["choices"][0]["text"] == plain
        for answer in scores:
            (item,) = answer.result()
            expected = reference.token_logprobs(ids)[-item["num_tokens"] :]
            assert item["mean_logprob"] == pytest.approx(expected.mean(), abs=1e-3)


def test_modes(server: Server) -> None:
    body = {"prompt": "The capital of France is", "completion": " Paris", "top_logprobs": 2}
    plain = {"index", "num_tokens", "logprob", "mean_logprob", "perplexity", "is_greedy"}
    stats = plain | {"confidence_summary", "uncertainty"}
    tokens = stats | {"tokens", "entropy_exact"}
    for mode, keys in {
        "empty": plain,
        "stats": stats,
        "summary": tokens,
        "per_token": tokens,
    }.items():
        (item,) = score(server, **body, mode=mode)
        assert set(item) == keys
        for token in item.get("tokens", ()):
            assert len(token["top_logprobs"]) == (2 if mode == "per_token" else 0)
    (item,) = score(server, **body, metrics=["perplexity"])
    assert set(item) == stats
    assert item["uncertainty"] == {"perplexity": {"value": item["perplexity"], "exact": True}}


@pytest.mark.only_vllm("adapters")
def test_an_adapter_scores_with_its_own_weights(
    server: Server, model_path: Path, lora_path: Path
) -> None:
    prompt, completion = TEXTS[0]
    merged = Reference(model_path, adapter=lora_path)
    ids = merged.tokenizer(prompt + completion)["input_ids"]
    response = server.post(
        "/v1/score", {"prompt": prompt, "completion": completion, "model": "adapter"}
    )
    assert response.json()["model"] == "adapter"
    item = response.json()["data"][0]
    expected = merged.token_logprobs(ids)[-item["num_tokens"] :]
    assert item["mean_logprob"] == pytest.approx(expected.mean(), abs=1e-3)
    (base,) = score(server, prompt=prompt, completion=completion, model="smol")
    assert abs(item["mean_logprob"] - base["mean_logprob"]) > 0.1


OPEN = [
    {"role": "user", "content": "Which river does Vienna lie on?"},
    {"role": "assistant", "content": "Vienna lies on the"},
]


@pytest.mark.parametrize(
    "how",
    [
        {"continue_final_message": True},
        {"continue_final_message": True, "add_generation_prompt": False},
        {"chat_template_kwargs": {"continue_final_message": True}},
    ],
)
def test_an_unfinished_turn_is_gone_on_with(
    server: Server, reference: Reference, how: dict[str, Any]
) -> None:
    (item,) = score(server, messages=OPEN, completion=" Danube.", **how)
    context = reference.tokenizer.apply_chat_template(
        OPEN, continue_final_message=True, tokenize=True, return_dict=False
    )
    ids = reference.tokenizer(" Danube.")["input_ids"]
    expected = reference.token_logprobs([*context, *ids])[-len(ids) :].sum()
    assert item["logprob"] == pytest.approx(expected, abs=1e-2)
    (new_turn,) = score(server, messages=OPEN, completion=" Danube.")
    assert new_turn["logprob"] < item["logprob"] - 5


@pytest.mark.parametrize("how", [{}, {"chat_template_kwargs": {}}])
def test_a_prompt_that_begins_no_answer(
    server: Server, reference: Reference, how: dict[str, Any]
) -> None:
    """`add_generation_prompt` beside the messages, or among the template's arguments."""
    flag = {"add_generation_prompt": False}
    body = {"chat_template_kwargs": flag} if how else flag
    (item,) = score(server, messages=OPEN[:1], completion="Hello", **body)
    context = reference.tokenizer.apply_chat_template(OPEN[:1], tokenize=True, return_dict=False)
    ids = reference.tokenizer("Hello")["input_ids"]
    expected = reference.token_logprobs([*context, *ids])[-len(ids) :].sum()
    assert item["logprob"] == pytest.approx(expected, abs=1e-2)


def test_a_finished_completion_ends_with_the_end_token(
    server: Server, reference: Reference
) -> None:
    end = reference.tokenizer.eos_token_id
    ids = reference.tokenizer(" Paris.")["input_ids"]
    texts = [
        {"text": " Paris.", "finished": True},
        {"token_ids": ids, "finished": True},
        [*ids, end],
    ]
    items = score(server, messages=OPEN[:1], completions=texts, mode="per_token")
    assert [token["token_id"] for token in items[0]["tokens"]] == [*ids, end]
    assert [item["logprob"] for item in items] == pytest.approx([items[2]["logprob"]] * 3)
