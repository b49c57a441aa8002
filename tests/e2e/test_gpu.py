"""A server on a GPU against transformers on the same GPU: an answer, a given text, its attention.

In float32 the numbers have to agree. In bfloat16, compiled and with CUDA graphs, which is how a
GPU is used, they only have to be near those of transformers in float32. The server without vLLM
and the engine with a scorer beside it or in turn with it on the same GPU, are held to the same
numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from conf_server.stats.confidence import token_confidence
from tests.reference import Reference
from tests.server import Kind, Server

pytestmark = pytest.mark.gpu

TOP_K = 20
CONTEXT = "The capital of France is"
COMPLETION = " Paris, a city on the Seine that more people visit than any other in Europe."
QUESTION = "What is the capital of France?"
RAUQ = 3.34861
"""Of COMPLETION after CONTEXT, by transformers on a CPU: docs/backends.md compares all methods."""


@dataclass(frozen=True)
class Way:
    """How the model is served.

    Attributes:
        tolerance: nats that a mean over tokens may be away from transformers'.
        kind: what runs the model.
        reads_attention: who says what the model attended to.
    """

    flags: tuple[str, ...]
    tolerance: float
    kind: Kind = "vllm"
    reads_attention: str | None = None


WAYS = {
    "float32": Way(
        ("--dtype=float32", "--enforce-eager", "--enable-hidden-states"),
        1e-3,
        reads_attention="engine",
    ),
    "bfloat16": Way(("--dtype=bfloat16", "--no-enforce-eager"), 0.1),
    "scorer": Way(
        ("--dtype=float32", "--enforce-eager", "--scorer=transformers", "--scorer-device=cuda:0"),
        1e-3,
        reads_attention="scorer",
    ),
    "swap": Way(
        (
            *("--dtype=float32", "--enforce-eager", "--scorer=transformers"),
            *("--scorer-device=cuda:0", "--scorer-mode=swap"),
        ),
        1e-3,
        reads_attention="scorer",
    ),
    "transformers": Way(
        ("--device=cuda", "--enable-hidden-states"), 1e-3, "transformers", "engine"
    ),
}


@pytest.fixture(scope="module", params=WAYS)
def way(request: pytest.FixtureRequest) -> Way:
    return WAYS[request.param]


@pytest.fixture(scope="module")
def gpu_server(
    way: Way, model_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    flags = ["--served-model-name=smol", "--max-model-len=2048", *way.flags]
    log = tmp_path_factory.mktemp("gpu") / "log"
    with Server(model_path, flags, log, kind=way.kind) as server:
        yield server


def post(server: Server, path: str, request: dict[str, Any]) -> dict[str, Any]:
    response = server.post(path, {"model": "smol", **request})
    assert response.status_code == 200, response.text
    return response.json()


def mean_confidence(rows: NDArray[np.float64]) -> float:
    return float(token_confidence(-np.sort(-rows, axis=1)[:, :TOP_K], TOP_K).mean())


def test_an_answers_confidence(gpu_server: Server, way: Way, reference: Reference) -> None:
    request = {
        "messages": [{"role": "user", "content": QUESTION}],
        "max_tokens": 32,
        "temperature": 0,
        "logprobs": True,
        "return_token_ids": True,
        "confidence": {"mode": "stats", "top_k": TOP_K},
    }
    answer = post(gpu_server, "/v1/chat/completions", request)
    (choice,) = answer["choices"]
    assert "Paris" in choice["message"]["content"]
    ids = choice["token_ids"]
    rows = reference.logprobs([*answer["prompt_token_ids"], *ids])[-len(ids) :]
    got = choice["logprobs"]["confidence_summary"]["mean_confidence"]
    assert got == pytest.approx(mean_confidence(rows), rel=0, abs=way.tolerance)


def test_a_given_texts_numbers(gpu_server: Server, way: Way, reference: Reference) -> None:
    context = reference.tokenizer.encode(CONTEXT)
    completion = reference.tokenizer.encode(COMPLETION)
    request = {"prompt": context, "completion": completion}
    (item,) = post(gpu_server, "/v1/score", request)["data"]
    assert item["num_tokens"] == len(completion)
    rows = reference.logprobs([*context, *completion])[-len(completion) :]
    own = rows[np.arange(len(rows)), completion]
    near = {"rel": 0, "abs": way.tolerance}
    assert item["mean_logprob"] == pytest.approx(own.mean(), **near)
    got = item["confidence_summary"]["mean_confidence"]
    assert got == pytest.approx(mean_confidence(rows), **near)


def test_what_it_attended_to(gpu_server: Server, way: Way, reference: Reference) -> None:
    request = {
        "prompt": CONTEXT,
        "answer": {"text": COMPLETION, "finished": False},
        "uncertainty": {"methods": ["rauq"]},
    }
    if way.reads_attention is None:
        assert gpu_server.post("/v1/uncertainty", request).status_code == 400
        return
    got = post(gpu_server, "/v1/uncertainty", request)["estimates"]["rauq"]
    assert got.get("backend", "engine") == way.reads_attention
    assert got["value"] == pytest.approx(RAUQ, rel=1e-3)


def test_everything_at_once(gpu_server: Server, way: Way) -> None:
    """Whoever takes turns takes several here, and nobody is lost or told something else."""
    chat = {
        "messages": [{"role": "user", "content": QUESTION}],
        "max_tokens": 32,
        "temperature": 0,
        "confidence": {"mode": "summary"},
        "logprobs": True,
    }
    estimate = {
        "prompt": CONTEXT,
        "answer": {"text": COMPLETION, "finished": False},
        "uncertainty": {"methods": ["perplexity" if way.reads_attention is None else "rauq"]},
    }
    work = [("/v1/chat/completions", chat), ("/v1/uncertainty", estimate)] * 8
    with ThreadPoolExecutor(len(work)) as pool:
        found = list(pool.map(lambda one: post(gpu_server, *one), work))
    texts = {answer["choices"][0]["message"]["content"] for answer in found[::2]}
    assert all("Paris" in text for text in texts)
    values = [value["value"] for answer in found[1::2] for value in answer["estimates"].values()]
    assert values == pytest.approx([values[0]] * 8, rel=1e-2)
