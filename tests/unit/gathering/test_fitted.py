"""Methods that have to be fitted: what states they ask for, and when they cannot be had.

Each number of the dummy's state of token i in layer l is i + l / 100, before the pooling.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from conf_server.backends.base import Ask, Caller, Chat, Completion, Rendered
from conf_server.backends.dummy import DummyBackend
from conf_server.gathering.plan import Planner
from conf_server.judges.models import all_judges
from conf_server.refusal import RefusalError
from conf_server.stats.forced import WantedAttention, WantedStates
from conf_server.stats.lookback import lookback_ratios
from conf_server.uncertainty.fitted import FITTABLE, Fitted
from conf_server.uncertainty.registry import METHODS
from tests.unit.gathering.inquiries import Answered, inquire, inquiry
from tests.unit.uncertainty.fits import fit

PROMPT = Chat(({"role": "user", "content": "zero one"},))
ANSWER = "two three four <end>"
"""With the prompt's words before them, tokens 2 to 5."""


def backend(answer: str = ANSWER) -> DummyBackend:
    return DummyBackend(lambda prompt, number: answer)


async def fitted(methods: Sequence[str], model: DummyBackend, **asked: Any) -> Answered:
    return await inquire(model, methods, fitted=fit(), prompt=PROMPT, **asked)


def wanted(model: DummyBackend) -> list[WantedStates]:
    return [what for how, _, what in model.asked if how == "states"]


@pytest.mark.parametrize(
    ("method", "asks", "field", "state"),
    [
        ("mahalanobis_distance", WantedStates((2,), "mean"), "text_states", 2.02),
        ("rde_answer", WantedStates((2,), "mean", True), "answer_states", 3.02),
        ("linear_probe", WantedStates((1,), "last"), "last_states", 4.01),
    ],
)
async def test_the_end_token_is_not_read(
    method: str, asks: WantedStates, field: str, state: float
) -> None:
    model = backend()
    answered = await fitted([method], model)
    assert wanted(model) == [asks]
    ((layer, found),) = getattr(answered.outcome.gathered.evidence, field).items()
    assert layer == asks.layers[0]
    assert found == pytest.approx(np.full(3, state))


async def test_lookback_ratios_are_of_the_answer_without_its_end() -> None:
    """Of the dummy's attention one half goes to the prompt, whatever the token."""
    model = backend()
    answered = await fitted(["lookback_lens"], model)
    every = WantedAttention((0, 1), history=0, context_mass=True)
    assert wanted(model) == [WantedStates((), completion_only=True, attention=every)]
    found = answered.outcome.gathered.evidence.lookback_ratios
    assert found is not None
    assert found == pytest.approx(lookback_ratios(np.full((2, 3, 2), 0.5), 2).flatten())
    assert answered.outcome.estimates["lookback_lens"].details == {"layer": None, "texts": 40}


async def test_a_given_answer_has_the_states_that_it_had_when_it_was_generated() -> None:
    drawn = await fitted(["mahalanobis_distance", "saplma"], model := backend("It is Paris. <end>"))
    value = {name: found.value for name, found in drawn.outcome.estimates.items()}
    for completion in (Completion("It is Paris."), Completion("It is Paris. <end>", True)):
        given = await fitted(list(value), model, answer=completion)
        assert {name: e.value for name, e in given.outcome.estimates.items()} == value


async def test_one_request_for_all_methods_that_read_the_same() -> None:
    model = backend()
    await fitted(["mahalanobis_distance", "rde", "ppl_md", "linear_probe", "saplma"], model)
    assert sorted(one.pooling for one in wanted(model)) == ["last", "mean"]


async def test_estimates_say_what_was_fitted() -> None:
    answered = await fitted(list(FITTABLE), backend())
    assert set(answered.outcome.estimates) == set(FITTABLE)
    for name, found in answered.outcome.estimates.items():
        pooled, learner = FITTABLE[name]
        layer = (1 if learner.is_probe else 2) if pooled.has_layer else None
        assert found.details == {"layer": layer, "texts": 40}
    spent = answered.outcome.stages.tokens["text_states"]["prompt_tokens"]
    assert spent == 5


async def test_an_answer_that_is_only_an_end_has_no_states_of_its_own() -> None:
    answered = await fitted(["mahalanobis_distance", "rde_answer"], backend("<end>"))
    assert set(answered.outcome.estimates) == {"mahalanobis_distance"}
    assert "no token before its end" in answered.outcome.unavailable["rde_answer"]


class Picture(DummyBackend):
    """Its prompts hold more than text."""

    async def check(self, ask: Ask, caller: Caller) -> Rendered:
        return replace(await super().check(ask, caller), token_ids=None)


async def test_a_prompt_that_holds_more_than_text_has_no_states() -> None:
    answered = await fitted(["rde", "perplexity"], Picture(lambda prompt, number: ANSWER))
    assert set(answered.outcome.estimates) == {"perplexity"}
    assert answered.outcome.unavailable == {"rde": "the prompt holds more than text"}


def planner(found: Fitted | None, **limits: Any) -> Planner:
    model = backend()
    return Planner(replace(model.known, **limits), all_judges(model, {}), fitted=found)


@pytest.mark.parametrize("name", FITTABLE)
def test_without_a_fit_the_way_to_one_is_told(name: str) -> None:
    reason = planner(None).obstacle(METHODS[name], "rouge_l")
    assert reason is not None
    assert "--fitted DIR" in reason
    assert "`conf-server fit`" in reason
    assert planner(fit()).obstacle(METHODS[name], "rouge_l") is None


def test_a_method_that_is_not_in_the_fit_says_what_is() -> None:
    whole = fit()
    part = Fitted(whole.model, {"rde": whole.methods["rde"]})
    reason = planner(part).obstacle(METHODS["saplma"], "rouge_l")
    assert reason == "has not been fitted: in the folder of --fitted there is rde"


def test_states_that_cannot_be_had_are_told_first() -> None:
    off = "start with --enable-hidden-states"
    reason = planner(None, states=off).obstacle(METHODS["rde"], "rouge_l")
    assert reason == f"needs hidden states: {off}"


def test_a_fit_is_not_of_an_adapter() -> None:
    asked = inquiry(["rde", "perplexity"])
    of_adapter = replace(asked, caller=Caller("request", "tuned"))
    able = planner(fit(), adapters=frozenset({"tuned"}))
    with pytest.raises(RefusalError, match="not on its adapter tuned"):
        able.plan(of_adapter)
    assert not able.plan(asked).unavailable
    assert (
        "rde" in able.plan(replace(of_adapter, methods=("all",), similarity="rouge_l")).unavailable
    )
