"""Methods that look at attention, on a real server, against what lm-polygraph has said."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.reference import Reference
from tests.server import Server

RECORDED = json.loads((Path(__file__).parent / "recorded" / "attention.json").read_text())
METHODS = ["attention_score", "attention_score_gen_only", "rauq", "rauq_entropy", "csl"]


def estimates(server: Server, **options: Any) -> dict[str, Any]:
    body = {"max_tokens": RECORDED["max_new_tokens"], "uncertainty": options.pop("uncertainty")}
    response = server.post("/v1/uncertainty", {**body, **options})
    assert response.status_code == 200, response.text
    return response.json()


@pytest.mark.parametrize("number", range(len(RECORDED["cases"])))
def test_numbers_are_those_of_lm_polygraph(server: Server, number: int) -> None:
    case = RECORDED["cases"][number]
    expected = case["values"]
    made = estimates(server, prompt=case["prompt"], uncertainty={"methods": METHODS})
    found = {name: estimate["value"] for name, estimate in made["estimates"].items()}
    base = {"methods": ["rauq"], "rauq_alpha": 0.2}
    given = {"token_ids": case["answer"]}
    again = estimates(server, prompt=case["prompt"], answer=given, uncertainty=base)
    found["rauq, alpha 0.2"] = again["estimates"]["rauq"]["value"]
    assert found == pytest.approx(expected, rel=1e-4)
    assert all(estimate["exact"] for estimate in made["estimates"].values())


def weights_of(part: dict[str, Any]) -> NDArray[np.float32]:
    return np.frombuffer(base64.b64decode(part["values"]), "<f4").reshape(part["shape"])


def test_weights_of_a_completion(server: Server, reference: Reference) -> None:
    encode = reference.tokenizer.encode
    context, completion = encode("The capital of France is"), encode(" Paris, as everybody knows.")
    wanted = {"layers": [0, -1], "history": 2, "context_mass": True, "last_token": True}
    body = {
        **{"prompt": context, "completion": completion, "tokens": "completion"},
        **{"layers": [], "attention": wanted},
    }
    response = server.post("/v1/hidden_states", body)
    assert response.status_code == 200, response.text
    assert response.json()["attention_layers"] == [0, 29]
    found = response.json()["data"][0]["attention"]
    attention = reference.attention([*context, *completion], [0, 29])
    first, rows = len(context), np.arange(len(context), len(context) + len(completion))
    near = np.stack([attention[:, :, rows, rows - back] for back in (0, 1)], -1)
    for name, expected in {
        "weights": near.transpose(0, 2, 1, 3),
        "context_mass": attention[:, :, rows, :first].sum(-1).transpose(0, 2, 1),
        "last_token": attention[:, :, -1],
    }.items():
        np.testing.assert_allclose(weights_of(found[name]), expected, rtol=0, atol=1e-4)
