"""The recorded cases as evidence: no lm-polygraph needed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from conf_server.uncertainty.evidence import (
    Alternatives,
    AnswerAttention,
    Evidence,
    Generation,
    HeadVerdict,
    Judgements,
)
from conf_server.uncertainty.layers import middle, middle_third
from tests.reference import token_statistics
from tests.unit.uncertainty.fits import fit

VECTORS: Final[dict[str, Any]] = json.loads(
    Path(__file__).with_name("vectors.json").read_text(encoding="utf-8")
)
_TOP_K: Final = 4


@dataclass(frozen=True)
class Case:
    """What one request knew, and lm-polygraph's numbers for it; None where it had NaN."""

    name: str
    evidence: Evidence
    values: dict[str, float | None]


def cases() -> list[Case]:
    return [
        Case(case["name"], evidence(case["inputs"]), case["outputs"]) for case in VECTORS["cases"]
    ]


def evidence(inputs: dict[str, Any]) -> Evidence:
    rows = np.array(inputs["distributions"])
    own = rows[np.arange(len(rows)), inputs["token_ids"]]
    logprobs = map(np.array, inputs["sample_logprobs"])
    return Evidence(
        answer=Generation(inputs["answer"], own, token_statistics(rows, _TOP_K)),
        samples=tuple(map(Generation, inputs["samples"], logprobs)),
        vocab_size=rows.shape[1],
        unconditional_logprobs=np.array(inputs["unconditional_logprobs"]),
        judgements=Judgements(*(np.array(inputs[n]) for n in ("entail", "neutral", "contradict"))),
        answer_token_similarity=np.array(inputs["answer_token_similarity"]),
        sample_token_similarity=tuple(map(np.array, inputs["sample_token_similarity"])),
        p_true_logprobs=tuple(inputs["p_true"]),
        p_true_sampling_logprobs=tuple(inputs["p_true_sampling"]),
        p_true_samples=tuple(inputs["p_true_samples"]),
        verbalized_1s=inputs["verbalized_1s"],
        verbalized_2s=inputs["verbalized_2s"],
        linguistic_1s=inputs["linguistic_1s"],
        extracted_answers=tuple(inputs["samples"]),
        claims=tuple(
            Alternatives(*(np.array(position[n]) for n in ("logprobs", "forward", "backward")))
            for position in inputs["claims"]
        ),
        sample_states=np.array(inputs["sample_states"]),
        # Not recorded here: tests/e2e/recorded/uhead.json has what luh's heads say.
        head_verdict=HeadVerdict(own[::-1], of_tokens=True),
        judging_attention=np.array(inputs["judging_attention"]).mean(axis=0),
        **attention(np.array(inputs["self_attention"]), len(rows)),
        text_states=answer_states(inputs, 2),
        answer_states=answer_states(inputs, 2),
        last_states=answer_states(inputs, 1),
        lookback_ratios=np.array(inputs["self_attention"])[0, 0, :4],
        fitted=fit(),
    )


def attention(own: Any, num_tokens: int) -> dict[str, Any]:
    """Evidence of (layers, heads, tokens of prompt and answer): what each pays to itself."""
    num_layers, _, count = own.shape
    layers = middle_third(num_layers)
    before_last = own[list(layers), :, count - num_tokens : -1].transpose(0, 2, 1)
    here = layers.index(middle(num_layers))
    return {
        "self_attention": own[middle(num_layers)].T,
        "answer_attention": AnswerAttention(before_last, here),
    }


def answer_states(inputs: dict[str, Any], layer: int) -> dict[int, Any]:
    """Not recorded, and only as wide as the made-up fit: density.json has states of a model."""
    return {layer: np.array(inputs["sample_states"])[0, :3]}
