"""Which methods can be had, and what a method that cannot says of the reason."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from conf_server.backends.base import Chat, Limits
from conf_server.backends.dummy import DummyBackend
from conf_server.gathering.plan import Plan, Planner
from conf_server.judges.models import all_judges
from conf_server.refusal import RefusalError
from conf_server.uncertainty.registry import METHODS
from tests.unit.gathering.inquiries import inquiry

INNER: dict[str, Any] = {"states": None, "num_layers": 2, "attention": (None, None)}
ALL = Limits(64, 1000, 20, has_chat_template=True, **INNER)
PICTURE = Chat(({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]},))


def planner(limits: Limits = ALL) -> Planner:
    return Planner(limits, all_judges(DummyBackend(lambda prompt, number: ""), {}))


def plan(methods: Sequence[str], limits: Limits = ALL, **asked: Any) -> Plan:
    return planner(limits).plan(inquiry(methods, **asked))


@pytest.mark.parametrize(
    ("limits", "method", "reason"),
    [
        (
            replace(ALL, statistics="speculative decoding samples elsewhere"),
            "mean_token_entropy",
            "needs exact token statistics: speculative decoding samples elsewhere",
        ),
        (replace(ALL, forcing="no tokenizer"), "p_true", "no tokenizer"),
        (
            replace(ALL, candidates=5),
            "claim_conditioned_probability",
            "needs 10 candidates a token: start with --max-logprobs 10",
        ),
        (
            replace(ALL, states="start with --enable-hidden-states"),
            "eigenscore",
            "needs hidden states: start with --enable-hidden-states",
        ),
        (
            replace(ALL, states="start with --enable-hidden-states"),
            "rauq",
            "needs attention weights: start with --enable-hidden-states",
        ),
        (
            replace(ALL, attention=("the model uses ALiBi", None)),
            "csl",
            "needs attention weights: layer 0: the model uses ALiBi",
        ),
    ],
)
def test_what_a_backend_cannot_do_is_said_in_its_own_words(
    limits: Limits, method: str, reason: str
) -> None:
    assert planner(limits).obstacle(METHODS[method], "rouge_l") == reason
    assert planner(limits).obstacle(METHODS["perplexity"], "rouge_l") is None
    found = plan(["all"], similarity="rouge_l", limits=limits)
    assert found.unavailable[method] == reason
    with pytest.raises(RefusalError, match=method) as refused:
        plan([method], similarity="rouge_l", limits=limits)
    assert refused.value.field == "uncertainty.methods"


def test_a_layer_that_no_method_looks_at_may_lack_attention() -> None:
    limits = replace(ALL, num_layers=4, attention=("no softmax", None, None, None))
    assert planner(limits).obstacle(METHODS["rauq"], "rouge_l") is None
    assert planner(limits).obstacle(METHODS["attention_score"], "rouge_l") is None
    assert planner(limits).obstacle(METHODS["csl"], "rouge_l") is not None


def test_a_judge_that_is_the_model_needs_what_forcing_needs() -> None:
    unforced = planner(replace(ALL, forcing="no tokenizer"))
    assert unforced.default_similarity == "rouge_l"
    assert unforced.obstacle(METHODS["deg_mat"], "self_nli") == "no tokenizer"
    assert unforced.obstacle(METHODS["deg_mat"], "rouge_l") is None


def test_the_default_judge_is_the_model_where_it_can_be_asked() -> None:
    assert planner().default_similarity == "self_nli"
    assert planner(replace(ALL, has_chat_template=False)).default_similarity == "rouge_l"


@pytest.mark.parametrize("name", ["nli", "magic"])
def test_an_unknown_judge_is_refused(name: str) -> None:
    with pytest.raises(RefusalError, match=f"no '{name}' here"):
        plan(["deg_mat"], similarity=name)


def test_a_question_that_is_no_text_cannot_be_quoted() -> None:
    found = plan(["all"], similarity="self_nli", prompt=PICTURE)
    assert "messages.0.content.0" in found.unavailable["p_true"]
    assert "self_nli" in found.unavailable["deg_mat"]
    by_words = plan(["all"], similarity="rouge_l", prompt=PICTURE)
    assert "deg_mat" not in by_words.unavailable


def test_nobody_draws_samples_that_no_method_reads() -> None:
    assert plan(["fast"], n_samples=10).n_samples == 0
    assert plan(["p_true_empirical"], n_samples=10).n_samples == 10
    assert plan(["deg_mat"], n_samples=10).similarity == "self_nli"
    assert plan(["lexical_similarity"], n_samples=10).similarity is None
