"""Sampling options: what is refused, and what the others do to logits."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from conf_server.backends.base import Ask, Plain
from conf_server.backends.transformers_sampling import (
    Sampling,
    TokenChooser,
    checked_sampling,
    seeded_generators,
    unless_it_fails,
)
from conf_server.refusal import RefusalError, TooLongError

CPU = torch.device("cpu")
MAX_LEN = 12


def checked(room: int = 10, defaults: Any = None, **fields: Any) -> Sampling:
    options = fields.pop("options", {})
    ask = Ask(Plain("A"), options=options, **fields)
    return checked_sampling(ask, room, MAX_LEN, 7, defaults or {})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("temperature", True),
        ("n", 0),
        ("n", 1.5),
        ("max_tokens", 0),
    ],
)
def test_a_field_of_the_ask_is_refused_by_its_name(field: str, value: Any) -> None:
    with pytest.raises(RefusalError) as refused:
        checked(**{field: value})
    assert refused.value.field == field
    assert refused.value.status == 400


@pytest.mark.parametrize(
    ("name", "value", "field"),
    [
        ("top_p", 0, "top_p"),
        ("top_p", 1.01, "top_p"),
        ("top_k", -2, "top_k"),
        ("top_k", 1.5, "top_k"),
        ("min_p", 2, "min_p"),
        ("seed", "7", "seed"),
        ("stop", "", "stop"),
        ("stop", ["a", 3], "stop"),
        ("stop_token_ids", [1, 7], "stop_token_ids.1"),
        ("stop_token_ids", 3, "stop_token_ids"),
        ("ignore_eos", 1, "ignore_eos"),
        ("min_tokens", -1, "min_tokens"),
        ("min_tokens", 11, "min_tokens"),
        ("presence_penalty", 2.5, "presence_penalty"),
        ("frequency_penalty", "much", "frequency_penalty"),
        ("repetition_penalty", 0, "repetition_penalty"),
        ("logit_bias", {"7": 1}, "logit_bias.7"),
        ("logit_bias", {"x": 1}, "logit_bias.x"),
        ("logit_bias", {"3": 101}, "logit_bias.3"),
        ("logit_bias", [3], "logit_bias"),
        ("guided_json", {}, "guided_json"),
    ],
)
def test_an_option_is_refused_by_its_name(name: str, value: Any, field: str) -> None:
    with pytest.raises(RefusalError) as refused:
        checked(options={name: value})
    assert refused.value.field == field


def test_what_is_unknown_is_said_to_be_unavailable() -> None:
    with pytest.raises(RefusalError, match="not available with --backend transformers"):
        checked(options={"best_of": 2})


def test_an_answer_has_the_room_that_is_left_at_most() -> None:
    assert checked().max_tokens == 10
    assert checked(max_tokens=MAX_LEN).max_tokens == 10
    assert checked(max_tokens=9).max_tokens == 9
    with pytest.raises(TooLongError, match="at most 12 together") as refused:
        checked(max_tokens=MAX_LEN + 1)
    assert refused.value.field == "max_tokens"


def test_options_that_are_null_are_not_given_and_defaults_stand_in() -> None:
    given = checked(defaults={"top_p": 0.5, "top_k": 3}, options={"top_p": None, "top_k": -1})
    assert (given.top_p, given.top_k) == (0.5, 0)


# What they do.

LOGITS = torch.tensor([[2.0, 1.0, 0.0, -1.0]])


def chosen(
    logits: torch.Tensor = LOGITS, ids: Any = ((0, 1),), prompt: int = 1, **options: Any
) -> int:
    sampling = Sampling(1, options.pop("temperature", 0.0), 5, **options)
    chooser = TokenChooser(sampling, prompt, [0], CPU)
    before = logits.clone()
    generators = seeded_generators(sampling, CPU)
    token = int(chooser.choose(torch.tensor(ids), logits, generators)[0])
    assert torch.equal(logits, before)
    return token


def support(**options: Any) -> set[int]:
    """Tokens that come up among many seeds."""
    return {chosen(temperature=3.0, seed=seed, **options) for seed in range(60)}


def test_the_likeliest_token_and_a_biased_one() -> None:
    assert chosen() == 0
    assert chosen(logit_bias={2: 2.5}) == 2


def test_end_tokens_are_masked_before_min_tokens() -> None:
    assert chosen(min_tokens=2) == 1
    assert chosen(min_tokens=1) == 0
    assert chosen(min_tokens=2, stop_token_ids=(1,)) == 2
    assert chosen(min_tokens=2, ignore_eos=True) == 0


def test_penalties_of_the_answers_tokens_leave_out_the_prompt() -> None:
    answered = {"ids": ((1, 0, 0),), "prompt": 1}
    assert chosen(**answered, presence_penalty=0.9) == 0
    assert chosen(**answered, presence_penalty=1.1) == 1
    assert chosen(**answered, frequency_penalty=0.6) == 1  # it stands there twice
    assert chosen(ids=((0, 0, 3),), prompt=2, frequency_penalty=2.0) == 0


def test_the_repetition_penalty_counts_the_prompt() -> None:
    assert chosen(ids=((0, 3),), prompt=1, repetition_penalty=1.9) == 0
    assert chosen(ids=((0, 3),), prompt=1, repetition_penalty=2.1) == 1


def test_truncation_keeps_the_likeliest() -> None:
    assert support() == {0, 1, 2, 3}
    assert support(top_k=2) == {0, 1}
    assert support(top_p=0.1) == {0}
    assert support(min_p=0.6) == {0, 1}  # p1 / p0 = exp(-1/3)


def test_a_step_that_fails_draws_nothing() -> None:
    (generator,) = seeded_generators(Sampling(1, 1.0, 5, seed=1), CPU)
    (same,) = seeded_generators(Sampling(1, 1.0, 5, seed=1), CPU)

    def fail() -> None:
        with unless_it_fails([generator]):
            torch.empty(3).exponential_(generator=generator)
            raise MemoryError

    with pytest.raises(MemoryError):
        fail()
    assert torch.equal(generator.get_state(), same.get_state())
