"""Trained heads on a real server, against what luh's own code has said of the same answers."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from conf_server.heads.features import ModelShape
from conf_server.heads.loading import load_head
from conf_server.stats.forced import ForcedAttention, ForcedStates, ForcedText, WantedStates
from conf_server.uncertainty.evidence import HeadVerdict
from tests.reference import Reference
from tests.server import Server
from tests.uheads import RECORDED, write_head

LUH = json.loads(RECORDED.read_text())
SMOL = ModelShape(num_layers=30, num_heads=9, hidden_size=576)
PROMPTS = range(len(LUH["prompts"]))


def sigmoid(logits: list[float]) -> NDArray[np.float64]:
    return 1 / (1 + np.exp(-np.array(logits)))


def post(server: Server, path: str, **body: Any) -> dict[str, Any]:
    response = server.post(path, body)
    assert response.status_code == 200, response.text
    return response.json()


@pytest.mark.parametrize("number", PROMPTS)
def test_the_servers_head_says_what_luh_says(server: Server, number: int) -> None:
    case = LUH["heads"]["claim"]["cases"][number]
    asked: dict[str, Any] = {
        "prompt": LUH["prompts"][number],
        "uncertainty": {"methods": ["uhead"]},
    }
    made = post(server, "/v1/uncertainty", max_tokens=LUH["max_new_tokens"], **asked)
    given = post(server, "/v1/uncertainty", answer={"token_ids": case["answer"]}, **asked)
    for body in (made, given):
        assert body["answer"]["num_tokens"] == len(case["answer"])
        found = body["estimates"]["uhead"]
        assert found["value"] == pytest.approx(sigmoid(case["logits"])[0], abs=1e-4)
        assert found["exact"]
        assert found["higher_is"] == "more uncertain"


@pytest.mark.only_vllm("adapters")
def test_an_adapter_has_no_head(server: Server) -> None:
    asked = {"model": "adapter", "prompt": "2 + 2 =", "uncertainty": {"methods": ["uhead"]}}
    response = server.post("/v1/uncertainty", asked)
    assert response.status_code == 400
    assert "not on its adapter adapter" in response.json()["error"]["message"]


def read(server: Server, text: ForcedText, wanted: WantedStates) -> ForcedStates:
    """What the engine says of a text, by the route for everybody."""
    context, completion = text.token_ids[: text.num_context], text.token_ids[text.num_context :]
    body: dict[str, Any] = {
        **{"prompt": context, "completion": completion, "pooling": "none"},
        **{"tokens": "completion" if wanted.completion_only else "all"},
        "layers": list(wanted.layers),
    }
    if wanted.attention is not None:
        body["attention"] = {
            "layers": list(wanted.attention.layers),
            "history": wanted.attention.history,
            "context_mass": wanted.attention.context_mass,
        }
    (data,) = post(server, "/v1/hidden_states", **body)["data"]
    states = numbers({"shape": data["shape"], "values": data["states"]})
    if wanted.attention is None:
        return ForcedStates(states, 0)
    weights, mass = data["attention"]["weights"], data["attention"].get("context_mass")
    attention = ForcedAttention(numbers(weights), None if mass is None else numbers(mass))
    return ForcedStates(states, 0, attention)


def numbers(part: dict[str, Any]) -> NDArray[np.float32]:
    return np.frombuffer(base64.b64decode(part["values"]), "<f4").reshape(part["shape"])


def candidates(server: Server, prompt: list[int], answer: list[int]) -> NDArray[np.float32]:
    body = post(
        server, "/v1/score", prompt=prompt, completion=answer, mode="per_token", top_logprobs=4
    )
    tokens = body["data"][0]["tokens"]
    return np.array([[each["logprob"] for each in row["top_logprobs"]] for row in tokens], "<f4")


async def verdict(
    server: Server, name: str, prompt: list[int], answer: list[int], folder: Path
) -> HeadVerdict:
    head = load_head(write_head(folder / name, name), SMOL, 10**8)
    text = head.text(ForcedText([*prompt, *answer], len(prompt)))
    states = read(server, text, head.wanted)
    return await head.judge(len(prompt), candidates(server, prompt, answer), states)


@pytest.mark.parametrize("number", PROMPTS)
@pytest.mark.parametrize("name", LUH["heads"])
async def test_all_kinds_of_heads_say_what_luh_says(
    server: Server, reference: Reference, name: str, number: int, tmp_path: Path
) -> None:
    of_head = LUH["heads"][name]
    case = of_head["cases"][number]
    prompt = reference.tokenizer(LUH["prompts"][number])["input_ids"]
    found = await verdict(server, name, prompt, case["answer"], tmp_path)
    assert found.of_tokens == of_head["of_tokens"]
    assert found.logits == pytest.approx(np.array(case["logits"]), rel=1e-4, abs=1e-4)
    assert np.allclose(sigmoid(list(found.logits)), sigmoid(case["logits"]), 0, 1e-4)
