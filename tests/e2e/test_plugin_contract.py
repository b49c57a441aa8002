"""The scripts of PETS, written for its vLLM plugin, run unchanged against conf-server.

tests/e2e/test_lifecycle.py runs them against servers that are started as their launcher does it.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.e2e.plugin_client import asked_plainly, asked_with_openai, question
from tests.server import Server


def test_a_client_of_the_plugin(server: Server) -> None:
    for summary in asked_with_openai(server.client(), 2):
        assert summary["mean_confidence"] > 0
    for summary in asked_plainly(server.url, server.api_key, 2):
        assert summary["mean_confidence"] > 0


def test_its_number_is_the_mean_of_21(server: Server) -> None:
    """Of the sampled token and the 20 likeliest, which a greedy one is among."""
    body = question("smol", 1, temperature=0, max_tokens=8)
    shown: Any = server.post("/v1/chat/completions", body).json()["choices"][0]["logprobs"]
    rows = [
        [entry["logprob"], *(candidate["logprob"] for candidate in entry["top_logprobs"])]
        for entry in shown["content"]
    ]
    assert {len(row) for row in rows} == {21}
    means = [-sum(row) / 21 for row in rows]
    confidence = {"mode": "stats", "include_sampled": True}
    told: Any = server.post("/v1/chat/completions", body | {"confidence": confidence}).json()
    summary = told["choices"][0]["logprobs"]["confidence_summary"]
    assert summary["mean_confidence"] == pytest.approx(sum(means) / len(means), abs=1e-4)
    ours = shown["confidence_summary"]["mean_confidence"]
    assert abs(summary["mean_confidence"] - ours) > 0.1
