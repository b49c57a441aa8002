"""Which question should be answered once more: the optimistic knowledge gradient.

Questions are answered many times, and the most frequent answer of each wins. How often a question
gives each of its M answers is unknown, with a Dirichlet(1, ..., 1) prior; after v_1, ..., v_M votes
it is Dirichlet(a), a_m = 1 + v_m. I_m(a) is the probability that answer m is the most frequent one,
and h(a) = max_m I_m(a) the probability that the vote is right about it. The next sample goes to
the question for which the outcome that helps most would help most:

    R(a) = max_m h(a + e_m) - h(a)

Chen, Lin and Zhou, "Statistical Decision Making for Optimal Budget Allocation in Crowd Labeling"
(JMLR 16, 2015; arXiv 1403.3080), with their extension to labels of more than two classes; first in
ICML 2013 (PMLR 28(3):64-72). PETS (arXiv 2602.16745) uses it for questions to a language model.

That policy sees each sample before it gives the next one. Here a whole budget is given away
beforehand, so the outcome of each sample is made up as the posterior expects it: a grows by its
own mean a / sum(a) (the "believer" of Ginsbourger, Le Riche and Carraro, "Kriging is well-suited
to parallelize optimization", 2010). A budget of one sample is the published rule, and the smaller
the budget of a round, the nearer to it a loop comes.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

_PANEL: Final = 0.5
"""Length of the stretches that integrals are cut into, in roots of a gamma variable."""

_REACH: Final = 6.5
"""The root of a gamma variable has a standard deviation near 0.5: this is thirteen of them."""

_POINTS: Final = 8
"""Nodes of a stretch."""


@dataclass(frozen=True)
class Tally:
    """The samples that a question has had.

    Attributes:
        votes: how many samples have given each of the answers that were given.
        missing: samples without an answer.
    """

    votes: tuple[int, ...] = ()
    missing: int = 0


def allocate(
    tallies: Sequence[Tally],
    budget: int,
    num_answers: int | None = None,
    on_sample: Callable[[], object] = lambda: None,
) -> list[int]:
    """How many further samples each question gets.

    Of questions that would gain the same, the first one is served. A question whose samples often
    lack an answer gains less: its R is multiplied by (answered + 1) / (samples + 1), which is 1
    where none is missing. (This factor is ours.)

    Args:
        budget: samples in all, at least 0.
        num_answers: M, different answers that a question is taken to have; at least 2. More where
            more were given. None: those that were given, and one more.
        on_sample: called for each sample that is given away.

    Returns:
        One number a question; they add up to `budget`.

    Raises:
        ValueError: a negative budget, fewer than two answers, or no question for a budget.
    """
    if budget < 0 or (budget and not tallies):
        raise ValueError(f"a budget of {budget} for {len(tallies)} questions")
    questions = [_Question(tally, num_answers) for tally in tallies]
    waiting = [(-question.gain(), place) for place, question in enumerate(questions)]
    heapq.heapify(waiting)
    given = [0] * len(questions)
    for _ in range(budget):
        _, place = waiting[0]
        given[place] += 1
        questions[place].expect_sample()
        heapq.heapreplace(waiting, (-questions[place].gain(), place))
        on_sample()
    return given


class _Question:
    """What is believed of one question, as samples are given to it."""

    def __init__(self, tally: Tally, num_answers: int | None) -> None:
        self._alphas = prior_and_votes(tally.votes, num_answers)
        self._answered = float(sum(tally.votes))
        self._samples = self._answered + tally.missing

    @property
    def _answer_share(self) -> float:
        return (self._answered + 1) / (self._samples + 1)

    def gain(self) -> float:
        return self._answer_share * knowledge_gradient(self._alphas)

    def expect_sample(self) -> None:
        """Take in one sample as it is expected to turn out."""
        share = self._answer_share
        self._alphas = self._alphas * (1 + share / self._alphas.sum())
        self._answered += share
        self._samples += 1


def prior_and_votes(votes: Sequence[int], num_answers: int | None = None) -> Floats:
    """(M,) the parameters of the posterior; arguments and errors as for `allocate`."""
    if num_answers is not None and num_answers < 2:
        raise ValueError(f"a question has at least two answers, got {num_answers}")
    count = max(len(votes), num_answers or max(2, len(votes) + 1))
    alphas = np.ones(count)
    alphas[: len(votes)] += sorted(votes, reverse=True)
    return alphas


def chance_of_leader(alphas: ArrayLike) -> float:
    """h(a): the probability that the leading answer is the most frequent one.

    The answer with the largest parameter has the largest probability of that.

    Args:
        alphas: (M,) parameters of a Dirichlet distribution, each at least 1.
    """
    _, others, _, weights = _quadrature(np.asarray(alphas, np.float64))
    return float(weights @ others)


def knowledge_gradient(alphas: ArrayLike) -> float:
    """R(a): how much larger `chance_of_leader` is after the most helpful outcome of a sample.

    That is always one more vote for the leader, ahead of the same others; a vote for any other
    answer leaves the winner either less far ahead or where it was behind. With X of the gamma
    distribution of a_1, the leader's parameter, and G its others' largest:

        R = P(G < X') - P(G < X) = E[(X / a_1 - 1) P(G < X)],

    where X' has the parameter a_1 + 1, and so X's density times x / a_1.

    Args:
        alphas: as for `chance_of_leader`.
    """
    leading, others, x, weights = _quadrature(np.asarray(alphas, np.float64))
    return float(weights @ ((x / leading - 1) * others))


def _quadrature(alphas: Floats) -> tuple[float, Floats, Floats, Floats]:
    """The leader against the others, at the nodes of an integral over the leader's variable.

    A Dirichlet variable is one of independent gamma variables over their sum, so that the largest
    of the one is the largest of the other.

    Returns:
        The largest parameter; (n,) the probability that all others' variables are below x; (n,) x;
        (n,) the probability that the leader's variable is near x, as weights that sum to 1.
    """
    place = int(np.argmax(alphas))
    leading = float(alphas[place])
    parameters, counts = np.unique(np.delete(alphas, place), return_counts=True)
    panels = math.ceil((math.sqrt(leading) + _REACH) / _PANEL)
    # Integrals run over the root u of x, in which all densities are about equally wide.
    u = (_PANEL * (np.arange(panels)[:, None] + _NODES)).ravel()
    weights = np.tile(_PANEL * _WEIGHTS, panels)
    others = np.ones_like(u)
    for parameter, count in zip(parameters.tolist(), counts.tolist(), strict=True):
        others *= _distribution(parameter, u) ** count
    return leading, others, u * u, weights * _density(leading, u)


def _density(parameter: float, u: Floats) -> Floats:
    """Density of the root of a gamma variable."""
    log = math.log(2) - math.lgamma(parameter) + (2 * parameter - 1) * np.log(u) - u * u
    return np.exp(log)


def _distribution(parameter: float, u: Floats) -> Floats:
    """Probability that the root of a gamma variable is below each of u, which are all nodes."""
    density = _density(parameter, u).reshape(-1, _POINTS)
    whole = _PANEL * (density @ _WEIGHTS)
    before = np.concatenate(([0.0], np.cumsum(whole)[:-1]))
    return np.minimum(before[:, None] + _PANEL * (density @ _PARTIAL.T), 1.0).ravel()


def _rule() -> tuple[Floats, Floats, Floats]:
    """Gauss-Legendre's rule on [0, 1], and the weights of the integrals from 0 to each node."""
    nodes, weights = np.polynomial.legendre.leggauss(_POINTS)
    nodes, weights = (nodes + 1) / 2, weights / 2
    powers = np.arange(_POINTS)
    # A polynomial through the nodes: its coefficients follow from its values by a linear map.
    integrals = nodes[:, None] ** (powers + 1) / (powers + 1)
    return nodes, weights, integrals @ np.linalg.inv(nodes[:, None] ** powers)


_NODES, _WEIGHTS, _PARTIAL = _rule()
