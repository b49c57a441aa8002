"""Which methods can be had, and what a method that cannot says of the reason."""

from __future__ import annotations

from dataclasses import replace

import pytest

from conf_server.backends.base import Chat, Limits
from conf_server.backends.dummy import DummyBackend
from conf_server.gathering.plan import Planner
from conf_server.judges.models import all_judges
from conf_server.refusal import RefusalError
from conf_server.uncertainty.registry import METHODS
from tests.unit.gathering.inquiries import CHAT

ALL = Limits(64, 1000, 20, has_chat_template=True)
PICTURE = Chat(({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]},))


def planner(limits: Limits = ALL) -> Planner:
    return Planner(limits, all_judges(DummyBackend(lambda prompt, number: ""), {}))


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
    ],
)
def test_what_a_backend_cannot_do_is_said_in_its_own_words(
    limits: Limits, method: str, reason: str
) -> None:
    assert planner(limits).obstacle(METHODS[method], "rouge_l") == reason
    assert planner(limits).obstacle(METHODS["perplexity"], "rouge_l") is None
    plan = planner(limits).plan(["all"], "rouge_l", 2, CHAT)
    assert plan.unavailable[method] == reason
    with pytest.raises(RefusalError, match=method) as refused:
        planner(limits).plan([method], "rouge_l", 2, CHAT)
    assert refused.value.field == "uncertainty.methods"


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
        planner().plan(["deg_mat"], name, 2, CHAT)


def test_a_question_that_is_no_text_cannot_be_quoted() -> None:
    plan = planner().plan(["all"], "self_nli", 2, PICTURE)
    assert "messages.0.content.0" in plan.unavailable["p_true"]
    assert "self_nli" in plan.unavailable["deg_mat"]
    assert "deg_mat" not in planner().plan(["all"], "rouge_l", 2, PICTURE).unavailable


def test_nobody_draws_samples_that_no_method_reads() -> None:
    assert planner().plan(["fast"], None, 10, CHAT).n_samples == 0
    assert planner().plan(["p_true_empirical"], None, 10, CHAT).n_samples == 10
    assert planner().plan(["deg_mat"], None, 10, CHAT).similarity == "self_nli"
    assert planner().plan(["lexical_similarity"], None, 10, CHAT).similarity is None
