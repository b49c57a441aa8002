"""A trained head: what is asked for it, what it is given, and when it cannot judge.

The dummy has 2 layers of 2 heads and hidden states of 3 numbers; each number of token i's state in
layer l is i + l / 100.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from conf_server.backends.base import Ask, Caller, Chat, Completion, Plain, Rendered
from conf_server.backends.dummy import DummyBackend
from conf_server.gathering.plan import Planner
from conf_server.heads.luh_config import Extractor
from conf_server.heads.uncertainty_head import UncertaintyHead
from conf_server.judges.models import all_judges
from conf_server.refusal import RefusalError
from conf_server.stats.forced import WantedAttention, WantedStates
from conf_server.uncertainty.registry import METHODS
from tests.unit.gathering.inquiries import Answered, inquire, inquiry
from tests.unit.gathering.made_up_heads import Network, head

PROMPT = Chat(({"role": "user", "content": "zero one"},))
STATES = Extractor("basic_hidden_states", {"layer_nums": [2]})
ATTENTION = Extractor("basic_attention", {"layer_nums": "all", "attn_history_sz": 2, "pool": False})
LIKELIEST = Extractor("token_probabilities", {"top_n": 12})


def backend(answer: str = "two three four") -> DummyBackend:
    return DummyBackend(lambda prompt, number: answer)


async def judge(found: UncertaintyHead, model: DummyBackend, **asked: Any) -> Answered:
    return await inquire(model, ["uhead"], head=found, **{"prompt": PROMPT, **asked})


def wanted(model: DummyBackend) -> list[WantedStates]:
    return [what for how, _, what in model.asked if how == "states"]


async def test_a_tokens_row_is_that_of_the_token_before_it() -> None:
    network = Network(of_tokens=True)
    model = backend()
    answered = await judge(head(STATES, network=network), model)
    assert wanted(model) == [WantedStates((2,), "none", True)]
    ((features, first),) = network.given
    assert (features[:, 0].tolist(), first) == (pytest.approx([1.02, 2.02, 3.02]), 0)
    found = answered.outcome.estimates["uhead"]
    wrong = 1 / (1 + np.exp(-features[:, 0].astype(float)))
    assert found.value == pytest.approx(wrong.mean())
    assert found.details == {"tokens": pytest.approx(wrong.tolist())}


async def test_a_head_whose_tokens_attend_to_the_prompt_gets_its_rows() -> None:
    network = Network(of_tokens=False)
    model = backend()
    answered = await judge(head(ATTENTION, network=network, reads_context=True), model)
    assert wanted(model) == [WantedStates((), "none", False, WantedAttention((0, 1), 2))]
    ((features, first),) = network.given
    assert (features.shape, first) == ((4, 8), 1)
    assert answered.outcome.estimates["uhead"].details is None
    assert answered.outcome.stages.tokens["uhead"]["prompt_tokens"] == 4


async def test_probabilities_alone_ask_for_no_layer() -> None:
    network = Network(of_tokens=True)
    model = backend()
    answered = await judge(head(LIKELIEST, network=network), model)
    assert not wanted(model)
    ((features, _),) = network.given
    assert features.shape == (3, 12)
    assert answered.outcome.estimates["uhead"].exact


async def test_a_given_answer_is_judged_as_a_generated_one_is() -> None:
    given = Completion("two three four")
    values = [
        (await judge(head(STATES), backend(), **asked)).outcome.estimates["uhead"].value
        for asked in ({}, {"answer": given})
    ]
    assert values[0] == values[1]


async def test_without_a_prompt_the_first_token_has_no_row() -> None:
    answered = await judge(
        head(STATES), backend(), prompt=Plain(()), answer=Completion("two three")
    )
    assert "without a prompt" in answered.outcome.unavailable["uhead"]


async def test_more_numbers_than_the_server_allows_are_not_asked_for() -> None:
    model = backend()
    answered = await judge(head(STATES, max_values=8), model)
    assert not wanted(model)
    assert answered.outcome.unavailable["uhead"] == (
        "its head reads 9 numbers of prompt and answer, at most 8 (--max-hidden-state-values)"
    )
    assert (await judge(head(STATES, max_values=9), model)).outcome.estimates


class Picture(DummyBackend):
    """Its prompts hold more than text."""

    async def check(self, ask: Ask, caller: Caller) -> Rendered:
        return replace(await super().check(ask, caller), token_ids=None)


async def test_a_prompt_that_holds_more_than_text_cannot_be_read_again() -> None:
    answered = await judge(head(STATES), Picture(lambda prompt, number: "two three"))
    assert answered.outcome.unavailable == {"uhead": "the prompt holds more than text"}


def obstacle(found: UncertaintyHead | None, **limits: Any) -> str | None:
    model = backend()
    planner = Planner(replace(model.known, **limits), all_judges(model, {}), head=found)
    return planner.obstacle(METHODS["uhead"], "rouge_l")


def test_without_a_head_the_way_to_one_is_told() -> None:
    reason = obstacle(None)
    assert reason is not None
    assert "--uhead DIR" in reason


def test_what_the_head_reads_has_to_be_there() -> None:
    off = "start with --enable-hidden-states"
    assert obstacle(head(STATES), states=off) == f"needs hidden states for its head: {off}"
    assert obstacle(head(LIKELIEST), states=off) is None
    assert obstacle(head(LIKELIEST), candidates=11) == (
        "needs 12 candidates a token for its head: start with --max-logprobs 12"
    )
    without = {"attention": (None, "the model uses ALiBi")}
    assert obstacle(head(STATES), **without) is None
    assert obstacle(head(ATTENTION), **without) == (
        "needs attention weights for its head: layer 1: the model uses ALiBi"
    )


def test_a_head_is_not_one_of_an_adapter() -> None:
    model = backend()
    limits = replace(model.known, adapters=frozenset({"tuned"}))
    planner = Planner(limits, all_judges(model, {}), head=head(STATES))
    asked = inquiry(["uhead"])
    assert not planner.plan(asked).unavailable
    with pytest.raises(RefusalError, match="not on its adapter tuned"):
        planner.plan(replace(asked, caller=Caller("request", "tuned")))
