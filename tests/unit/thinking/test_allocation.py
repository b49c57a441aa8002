"""Which question is answered once more, against integrals worked out by hand, and in play."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conf_server.thinking.allocation import (
    Tally,
    allocate,
    chance_of_leader,
    knowledge_gradient,
    prior_and_votes,
)


def chance_of_two(leader: int, other: int) -> Fraction:
    """P(theta > 1/2) under Beta(leader, other): a binomial tail."""
    tosses = leader + other - 1
    return Fraction(sum(math.comb(tosses, heads) for heads in range(leader)), 2**tosses)


@pytest.mark.parametrize(
    ("leader", "other"), [(1, 1), (2, 1), (3, 2), (9, 1), (5, 5), (30, 20), (400, 380), (2000, 1)]
)
def test_two_answers(leader: int, other: int) -> None:
    now, then = chance_of_two(leader, other), chance_of_two(leader + 1, other)
    assert chance_of_leader([leader, other]) == pytest.approx(float(now), abs=1e-11)
    assert knowledge_gradient([leader, other]) == pytest.approx(float(then - now), abs=1e-11)


def test_32_answers_as_pets_has_them() -> None:
    """One vote among 32: the integral of x e^-x (1 - e^-x)^31 is the 32nd harmonic number / 32."""
    harmonic = sum(1 / k for k in range(1, 33))
    assert chance_of_leader(prior_and_votes((), 32)) == pytest.approx(1 / 32)
    assert chance_of_leader(prior_and_votes((1,), 32)) == pytest.approx(harmonic / 32)
    assert knowledge_gradient(prior_and_votes((), 32)) == pytest.approx((harmonic - 1) / 32)


@pytest.mark.parametrize("alphas", [[3.0, 2.5, 1.0], [4.2, 1.03, 1.03], [1.2, 1.1, 1.05, 1.0]])
def test_against_draws(alphas: list[float]) -> None:
    drawn = np.random.default_rng(1).gamma(alphas, size=(400_000, len(alphas)))
    share = float(np.mean(drawn.argmax(axis=1) == 0))
    assert chance_of_leader(alphas) == pytest.approx(share, abs=4e-3)


@settings(deadline=None)
@given(st.lists(st.floats(1, 12), min_size=2, max_size=6))
def test_the_most_helpful_outcome_is_one_more_vote_for_the_leader(alphas: list[float]) -> None:
    now = chance_of_leader(alphas)
    one_more = np.array(alphas) + np.eye(len(alphas))
    best = max(chance_of_leader(after) - now for after in one_more)
    assert knowledge_gradient(alphas) == pytest.approx(best, abs=1e-9)


def test_the_prior_has_an_answer_that_nobody_gave() -> None:
    assert prior_and_votes(()).tolist() == [1, 1]
    assert prior_and_votes((1, 3)).tolist() == [4, 2, 1]
    assert prior_and_votes((1, 3), 5).tolist() == [4, 2, 1, 1, 1]
    assert prior_and_votes((1, 3, 2), 2).tolist() == [4, 3, 2]


def test_one_sample_goes_where_the_gradient_is_largest() -> None:
    easy, torn, open_, new = Tally((8,)), Tally((4, 4)), Tally((2, 1)), Tally()
    questions = [easy, torn, open_, new]
    gains = [knowledge_gradient(prior_and_votes(each.votes)) for each in questions]
    assert gains[0] < gains[1]
    assert allocate(questions, 1) == [int(gain == max(gains)) for gain in gains]


def test_equal_questions_are_served_in_their_order() -> None:
    assert allocate([Tally((2, 2))] * 5, 7) == [2, 2, 1, 1, 1]
    assert allocate([Tally((1, 3)), Tally((3, 1))], 1) == [1, 0]


def test_the_budget_is_spent_and_told_of() -> None:
    calls: list[None] = []
    questions = [Tally((9, 1)), Tally((3, 3, 2)), Tally((1,), missing=4), Tally()]
    given = allocate(questions, 100, on_sample=lambda: calls.append(None))
    assert sum(given) == len(calls) == 100
    assert given[1] == max(given)
    assert allocate(questions, 100) == given
    assert allocate(questions, 0) == [0, 0, 0, 0]
    assert allocate([], 0) == []


def test_samples_without_an_answer_are_worth_less() -> None:
    often, never = Tally((2, 2)), Tally((2, 2), missing=30)
    assert allocate([never, often], 1) == [0, 1]
    shares = allocate([never, often], 20)
    assert shares[0] < shares[1]


@pytest.mark.parametrize(
    "call",
    [
        lambda: allocate([Tally()], -1),
        lambda: allocate([], 3),
        lambda: allocate([Tally()], 3, num_answers=1),
    ],
)
def test_what_cannot_be_meant(call: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=r"budget|two answers"):
        call()


NUM_ANSWERS, FIRST, ROUND, ROUNDS = 6, 4, 60, 5


def mixture(rng: np.random.Generator) -> np.ndarray:
    """(30, 6) how often each answer is given: 20 easy questions and 10 hard; 0 is most frequent."""
    most = np.concatenate([rng.uniform(0.85, 0.98, 20), rng.uniform(0.35, 0.45, 10)])
    second = np.where(most > 0.5, 0.6 * (1 - most), most - rng.uniform(0.08, 0.15, 30))
    rest = np.tile(((1 - most - second) / 4)[:, None], 4)
    return np.column_stack([most, second, rest])


def share_right(adaptive: bool, seed: int) -> float:
    """Of votes, after the same number of samples; answers that tie share the vote."""
    rng = np.random.default_rng(seed)
    chances = mixture(rng)
    votes = np.array([rng.multinomial(FIRST, row) for row in chances])
    for _ in range(ROUNDS):
        tallies = [Tally(tuple(row[row > 0].tolist())) for row in votes]
        shares = allocate(tallies, ROUND) if adaptive else [ROUND // len(votes)] * len(votes)
        votes += [rng.multinomial(n, row) for n, row in zip(shares, chances, strict=True)]
    tied = votes == votes.max(axis=1, keepdims=True)
    return float(np.mean(tied[:, 0] / tied.sum(axis=1)))


def test_easy_and_hard_questions_against_as_many_for_each() -> None:
    seeds = range(8)
    adaptive = [share_right(True, seed) for seed in seeds]
    uniform = [share_right(False, seed) for seed in seeds]
    assert np.mean(adaptive) > np.mean(uniform) + 0.02
