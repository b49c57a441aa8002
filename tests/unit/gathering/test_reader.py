"""Who reads prompt and answers once more: the engine, or a scorer beside it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from conf_server.backends.base import Caller, Chat, Completion, Limits, Plain
from conf_server.backends.dummy import DummyBackend
from conf_server.backends.dummy_numbers import LIMITS
from conf_server.backends.paired import ANOTHER_MODEL, NO_SCORER, PairedBackend, Readers, Side
from conf_server.gathering.plan import Plan, Planner
from conf_server.heads.luh_config import Extractor
from conf_server.judges.models import all_judges
from conf_server.refusal import RefusalError
from conf_server.stats.forced import WantedStates
from conf_server.uncertainty.needs import READING
from conf_server.uncertainty.registry import METHODS
from tests.unit.gathering.inquiries import CHAT, inquire, inquiry
from tests.unit.gathering.made_up_heads import head
from tests.unit.uncertainty.fits import fit

OFF = replace(LIMITS, states="they are off", num_layers=0, num_heads=0, attention=())
INNER = ["rauq", "attention_score", "eigenscore", "csl"]
LONG = replace(LIMITS, max_len=512)


def capital(prompt: str, number: int) -> str:
    return ("It is Paris.", "It is Lyon.")[number % 2]


def dummy(limits: Limits = LONG) -> DummyBackend:
    return DummyBackend(capital, limits)


def plan(readers: Readers, methods: list[str], **asked: Any) -> Plan:
    made = Planner(readers.engine, all_judges(dummy(), {}), readers=readers, fitted=fit())
    return made.plan(inquiry(methods, similarity="rouge_l", **asked))


def kinds(backend: DummyBackend) -> set[str]:
    return {how for how, _, _ in backend.asked}


async def test_the_scorer_s_numbers_are_those_that_the_engine_would_have() -> None:
    learned: dict[str, Any] = {"fitted": fit(), "head": head(Extractor("basic_hidden_states", {}))}
    expected = await inquire(dummy(), ["all"], similarity="rouge_l", **learned)
    engine, scorer = dummy(replace(OFF, max_len=512)), dummy()
    scorer.words = engine.words  # the same tokenizer
    pair = PairedBackend(engine, scorer, same_model=True)
    found = await inquire(pair, ["all"], similarity="rouge_l", **learned)
    assert not found.outcome.unavailable
    ours, theirs = (
        {name: estimate.value for name, estimate in answered.outcome.estimates.items()}
        for answered in (found, expected)
    )
    assert ours == pytest.approx(theirs)
    reading = {
        name
        for name, method in METHODS.items()
        if any(need.asks & READING for need in method.needs)
    }
    assert reading > {"rauq", "attention_score", "eigenscore", "saplma", "uhead"}
    assert found.outcome.scored == reading
    assert expected.outcome.scored == set()
    assert "states" not in kinds(engine)
    assert kinds(scorer) == {"states"}
    assert found.outcome.stages.tokens == expected.outcome.stages.tokens


async def test_what_the_engine_can_read_is_not_asked_of_the_scorer() -> None:
    engine, scorer = dummy(), dummy()
    pair = PairedBackend(engine, scorer, same_model=True)
    found = await inquire(pair, ["rauq", "perplexity"])
    assert found.outcome.scored == set()
    assert not scorer.asked
    told = await inquire(pair, ["rauq", "perplexity"], only=Side.SCORER)
    assert told.outcome.scored == {"rauq"}  # the other reads nothing
    assert kinds(scorer) == {"states"}


async def test_the_scorer_forces_what_the_engine_cannot() -> None:
    engine, scorer = dummy(replace(LONG, forcing="no forcing")), dummy()
    scorer.words = engine.words
    pair = PairedBackend(engine, scorer, same_model=True)
    found = await inquire(pair, ["p_true", "mean_pointwise_mutual_information"])
    assert found.outcome.scored == {"p_true", "mean_pointwise_mutual_information"}
    assert kinds(scorer) == {"labels", "force"}


@pytest.mark.parametrize(
    ("readers", "only", "field", "reason"),
    [
        (Readers(OFF, LIMITS), Side.ENGINE, "uncertainty.backend", "they are off"),
        (Readers(LIMITS), Side.SCORER, "uncertainty.backend", NO_SCORER),
        (Readers(LIMITS, OFF), Side.SCORER, "uncertainty.backend", "they are off"),
        (Readers(OFF), Side.ENGINE, "uncertainty.methods", "they are off"),
        (Readers(OFF, OFF), None, "uncertainty.methods", "they are off"),
    ],
)
def test_a_way_that_does_not_exist_is_refused_by_its_field(
    readers: Readers, only: Side | None, field: str, reason: str
) -> None:
    with pytest.raises(RefusalError, match=reason) as refused:
        plan(readers, ["rauq"], only=only)
    assert refused.value.field == field


def test_methods_of_a_group_are_unavailable_one_by_one() -> None:
    found = plan(Readers(OFF, LIMITS), ["all"], only=Side.ENGINE)
    assert "they are off" in found.unavailable["rauq"]
    assert METHODS["perplexity"] in found.methods
    assert not plan(Readers(OFF, LIMITS), ["all"]).unavailable.keys() & set(INNER)


def test_an_adapter_is_the_engine_s_alone() -> None:
    readers = Readers(replace(OFF, adapters=frozenset({"tuned"})), LIMITS)
    made = Planner(readers.engine, all_judges(dummy(), {}), readers=readers)
    asked = replace(inquiry(["rauq"]), caller=Caller("request", "tuned"))
    with pytest.raises(RefusalError, match="not its adapter tuned"):
        made.plan(asked)


def test_a_head_reads_what_the_scorer_gives() -> None:
    readers = Readers(OFF, replace(LIMITS, candidates=0))
    trained = head(Extractor("basic_hidden_states", {}))
    made = Planner(OFF, all_judges(dummy(), {}), readers=readers, head=trained)
    assert made.obstacle(METHODS["uhead"], "rouge_l") is None


# A scorer with another model.


@pytest.mark.parametrize("method", ["rauq", "csl", "p_true", "saplma", "lookback_lens"])
def test_what_belongs_to_the_answer_s_own_tokens_is_not_asked_of_another_model(
    method: str,
) -> None:
    readers = Readers(replace(OFF, forcing="no forcing"), LIMITS, same_model=False)
    with pytest.raises(RefusalError, match=ANOTHER_MODEL):
        plan(readers, [method])


@pytest.mark.parametrize(
    ("prompt", "context"),
    [
        (replace(CHAT, template="the engine's", template_kwargs={"a": 1}), CHAT),
        (Plain("What is it?"), Plain("What is it?")),
        (Plain((0, 1)), Plain("one two")),
    ],
)
async def test_another_model_gets_texts(
    prompt: Chat | Plain, context: Chat | Plain, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, scorer = dummy(replace(OFF, max_len=512)), dummy(replace(LONG, num_layers=4))
    engine.words = ["one", " two"]
    scorer.words = ["other", " tokens"]
    prepared = []

    async def prepare(items: Any) -> Any:
        items = list(items)
        prepared.extend(items)
        return await DummyBackend.prepare(scorer, items)

    monkeypatch.setattr(scorer, "prepare", prepare)
    pair = PairedBackend(engine, scorer, same_model=False)
    found = await inquire(pair, ["eigenscore"], prompt=prompt)
    assert found.outcome.scored == {"eigenscore"}
    (item,) = prepared
    assert item.context == context
    assert item.completions == (
        Completion("It is Paris.", finished=True),
        Completion("It is Lyon.", finished=True),
    )
    assert [what for _, _, what in scorer.asked] == [WantedStates((2,), "last")]
