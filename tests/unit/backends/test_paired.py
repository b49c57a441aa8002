"""Which of two backends reads a text."""

from __future__ import annotations

from dataclasses import replace

import pytest

from conf_server.backends.base import Ask, Backend, Caller, Completion, ForcingItem, Limits, Plain
from conf_server.backends.dummy import DummyBackend
from conf_server.backends.dummy_numbers import LIMITS
from conf_server.backends.paired import (
    ANOTHER_MODEL,
    NO_SCORER,
    PairedBackend,
    Readers,
    Side,
    readers_of,
    side_of,
)
from conf_server.stats.forced import WantedAttention, WantedRows, WantedStates

CALLER = Caller("request")
NO_STATES = replace(LIMITS, states="they are off")
ALIBI = replace(LIMITS, attention=("the model uses ALiBi", None))
ROWS = WantedRows(1, 0, statistics=True)


def dummy(limits: Limits = LIMITS) -> DummyBackend:
    return DummyBackend(lambda prompt, number: "an answer", limits)


def states(limits: Limits) -> str | None:
    return limits.states


async def readers(
    engine: Limits, wanted: WantedStates, caller: Caller = CALLER, *, same_model: bool = True
) -> tuple[bool, bool]:
    """Whether the engine, and whether the scorer, was asked for states."""
    first, second = dummy(engine), dummy()
    pair = PairedBackend(first, second, same_model=same_model)
    jobs = await pair.prepare([ForcingItem(Plain("a b"), (Completion("c"),), "", ("x",))])
    await pair.states(jobs, wanted, caller)
    return bool(first.asked), bool(second.asked)


async def test_the_engine_reads_what_it_can() -> None:
    attention = WantedStates(attention=WantedAttention((1,)))
    assert await readers(LIMITS, WantedStates((0,))) == (True, False)
    assert await readers(ALIBI, attention) == (True, False)  # another layer's


async def test_the_scorer_reads_what_the_engine_cannot() -> None:
    attention = WantedStates(attention=WantedAttention((0, 1)))
    assert await readers(NO_STATES, WantedStates((0,))) == (False, True)
    assert await readers(ALIBI, attention) == (False, True)


async def test_tokens_and_adapters_of_the_engine_do_not_go_to_the_scorer() -> None:
    adapted = replace(NO_STATES, adapters=frozenset({"tuned"}))
    wanted = WantedStates((0,))
    assert await readers(adapted, wanted, Caller("request", "tuned")) == (True, False)
    assert await readers(adapted, wanted, Caller("request", "served")) == (False, True)
    assert await readers(NO_STATES, wanted, same_model=False) == (True, False)


async def test_texts_are_forced_by_the_scorer_where_the_engine_cannot() -> None:
    engine, scorer = dummy(replace(LIMITS, forcing="no tokenizer")), dummy()
    pair = PairedBackend(engine, scorer, same_model=True)
    jobs = await pair.prepare([ForcingItem(Plain("a b"), (Completion("c"),), "", ("x",))])
    await pair.force(jobs, ROWS, CALLER)
    assert [how for how, _, _ in scorer.asked] == ["force"]
    assert not engine.asked


async def test_the_engine_alone_answers() -> None:
    engine, scorer = dummy(replace(NO_STATES, forcing="no tokenizer")), dummy()
    pair: Backend = PairedBackend(engine, scorer, same_model=True)
    assert pair.limits() == engine.known
    await pair.check(Ask(Plain("a")), CALLER)
    answers = await pair.generate(Ask(Plain("a")), ROWS, CALLER)
    assert answers.answers[0].text == "an answer"
    assert pair.decode([[0]]) == engine.decode([[0]])
    assert [how for how, _, _ in engine.asked] == ["check", "generate"]
    assert not scorer.asked


def test_a_choice_says_why_the_others_were_not_chosen() -> None:
    choice = Readers(NO_STATES, LIMITS).choose(states)
    assert choice.side is Side.SCORER
    assert choice.reasons == {Side.ENGINE: "they are off"}
    assert Readers(LIMITS, LIMITS).choose(states).side is Side.ENGINE


@pytest.mark.parametrize(
    ("readers", "only", "reason"),
    [
        (Readers(NO_STATES), None, "they are off"),
        (Readers(NO_STATES), Side.ENGINE, "they are off"),
        (Readers(LIMITS), Side.SCORER, NO_SCORER),
        (Readers(NO_STATES, LIMITS), Side.ENGINE, "they are off"),
        (Readers(LIMITS, replace(LIMITS, states="odd")), Side.SCORER, "odd"),
        (
            Readers(NO_STATES, replace(LIMITS, states="odd")),
            None,
            "they are off; and the scorer: odd",
        ),
        (Readers(LIMITS, LIMITS, same_model=False), Side.SCORER, ANOTHER_MODEL),
    ],
)
def test_where_nobody_can_it_is_said_why(readers: Readers, only: Side | None, reason: str) -> None:
    choice = readers.choose(states, only)
    assert choice.side is None
    assert choice.reason == reason


def test_another_model_does_what_makes_sense_of_any() -> None:
    readers = Readers(NO_STATES, LIMITS, same_model=False)
    assert readers.choose(states, any_model=True).side is Side.SCORER


def test_a_backend_that_is_no_pair_is_the_engine() -> None:
    engine = dummy()
    assert readers_of(engine) == Readers(LIMITS)
    assert side_of(engine, Side.ENGINE) is engine
