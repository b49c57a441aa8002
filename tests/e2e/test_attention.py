"""Methods that look at attention, on a real server, against what lm-polygraph has said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

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
