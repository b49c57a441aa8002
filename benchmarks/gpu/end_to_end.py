"""A server on the GPU against transformers on the GPU: one chat answer, one scored text.

    python -m benchmarks.gpu.end_to_end --model FOLDER [--out FILE]

Twice: in float32, where the numbers have to agree, and in bfloat16 compiled with CUDA graphs, as
it is used, where they are compared with transformers in float32 and only have to be near.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from conf_server.stats.confidence import token_confidence
from tests.server import Server

TOP_K = 20
CONTEXT = "The capital of France is"
COMPLETION = " Paris, a city on the Seine that more people visit than any other in Europe."
QUESTION = "What is the capital of France?"


@dataclass(frozen=True)
class Way:
    """How the model is served.

    Attributes:
        tolerance: nats that a mean over tokens may be away from transformers'.
    """

    name: str
    flags: tuple[str, ...]
    tolerance: float


WAYS = (
    Way("float32, eager", ("--dtype=float32", "--enforce-eager"), 1e-3),
    Way("bfloat16, compiled", ("--dtype=bfloat16", "--no-enforce-eager"), 0.1),
)


class Reference:
    """transformers in float32."""

    def __init__(self, model: Path, device: str) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(model)
        loaded: Any = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
        self._model = loaded.to(device)
        self._device = device

    def logprobs(self, context: Sequence[int], completion: Sequence[int]) -> NDArray[np.float64]:
        """(len(completion), V): the distribution of each token of the completion."""
        ids = torch.tensor([[*context, *completion]], device=self._device)
        with torch.inference_mode():
            logits = self._model(ids).logits[0, len(context) - 1 : -1]
        rows: NDArray[np.float64] = logits.double().log_softmax(-1).cpu().numpy()
        return rows


def means(rows: NDArray[np.float64], tokens: Sequence[int]) -> dict[str, float]:
    """Mean log-probability of the tokens and mean confidence of their distributions, in nats."""
    best = -np.sort(-rows, axis=1)[:, :TOP_K]
    return {
        "mean_logprob": float(rows[np.arange(len(tokens)), tokens].mean()),
        "mean_confidence": float(token_confidence(best, TOP_K).mean()),
    }


def chat(server: Server, reference: Reference) -> list[tuple[str, float, float]]:
    """What was compared, the server's figure, transformers' figure."""
    request = {
        "model": "smol",
        "messages": [{"role": "user", "content": QUESTION}],
        "max_tokens": 32,
        "temperature": 0,
        "logprobs": True,
        "return_token_ids": True,
        "confidence": {"mode": "stats", "top_k": TOP_K},
    }
    answer = _answer(server, "/v1/chat/completions", request)
    (choice,) = answer["choices"]
    if "Paris" not in choice["message"]["content"]:
        raise AssertionError(f"the answer is {choice['message']['content']!r}")
    rows = reference.logprobs(answer["prompt_token_ids"], choice["token_ids"])
    expected = means(rows, choice["token_ids"])["mean_confidence"]
    got = choice["logprobs"]["confidence_summary"]["mean_confidence"]
    return [("chat, mean confidence", got, expected)]


def score(server: Server, reference: Reference) -> list[tuple[str, float, float]]:
    """The same for a given text."""
    context = reference.tokenizer.encode(CONTEXT)
    completion = reference.tokenizer.encode(COMPLETION)
    request = {"model": "smol", "prompt": context, "completion": completion}
    (item,) = _answer(server, "/v1/score", request)["data"]
    if item["num_tokens"] != len(completion):
        raise AssertionError(f"{item['num_tokens']} tokens scored, {len(completion)} given")
    expected = means(reference.logprobs(context, completion), completion)
    got = item["confidence_summary"]["mean_confidence"]
    return [
        ("score, mean log-probability", item["mean_logprob"], expected["mean_logprob"]),
        ("score, mean confidence", got, expected["mean_confidence"]),
    ]


def _answer(server: Server, path: str, request: dict[str, Any]) -> dict[str, Any]:
    response = server.post(path, request)
    if response.status_code != 200:
        raise AssertionError(f"{path}: {response.status_code} {response.text[:1000]}")
    answer: dict[str, Any] = response.json()
    return answer


def lines(way: Way, compared: Sequence[tuple[str, float, float]]) -> list[str]:
    """Rows of the table.

    Raises:
        AssertionError: a figure is farther away than the way allows, or is none.
    """
    rows = []
    for what, got, expected in compared:
        if got is None or not abs(got - expected) <= way.tolerance:
            raise AssertionError(f"{way.name}, {what}: {got}, expected {expected}")
        away = abs(got - expected)
        rows.append(f"| {way.name} | {what} | {got:.5f} | {expected:.5f} | {away:.1g} |")
    return rows


def run(model: Path, log: Path, device: str) -> str:
    reference = Reference(model, device)
    flags = ("--served-model-name=smol", "--max-model-len=2048")
    table = ["| served in | figure | server | transformers | apart |", "|---|---|---:|---:|---:|"]
    for way in WAYS:
        with Server(model, [*flags, *way.flags], log, environ=os.environ) as server:
            compared = [*chat(server, reference), *score(server, reference)]
            table += lines(way, compared)
            print("\n".join(table), flush=True)
    return "\n".join(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--device", default="cuda", help="of transformers (default: cuda)")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        text = run(given.model, Path(scratch) / "server.log", given.device)
    if given.out:
        given.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
