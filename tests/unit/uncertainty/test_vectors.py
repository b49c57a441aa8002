"""Estimators that lm-polygraph 0.7.0 also has, against numbers recorded from it."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from conf_server.uncertainty.fitted import FITTABLE
from conf_server.uncertainty.registry import METHODS
from conf_server.uncertainty.words.porter_stemmer import stem
from tests.unit.uncertainty.vectors.cases import VECTORS, Case, cases

OWN = {"max_token_entropy", "probability_gap", "consistency", "uhead"}
"""Methods that lm-polygraph lacks."""
NAMES = sorted(METHODS.keys() - OWN - FITTABLE.keys())
"""Those that have to be fitted are held against a file of their own: test_density_vectors."""
CASES = cases()
RELATIONS: dict[str, Callable[[float, Case], float]] = {
    "perplexity": lambda theirs, _: math.exp(theirs),
    "renyi_neg": lambda theirs, case: -theirs - 2 * math.log(case.evidence.vocab_size or 0),
    "fisher_rao": lambda theirs, _: -theirs,
}
"""Where our number is another one on purpose, how it follows from lm-polygraph's."""


def as_number(value: float | None) -> float:
    return math.nan if value is None else value


def test_what_is_recorded() -> None:
    assert VECTORS["version"] == "0.7.0"
    assert len(CASES) >= 20
    for case in CASES:
        assert sorted(case.values) == NAMES


def has_other_letters(case: Case) -> bool:
    texts = "".join(sample.text for sample in case.evidence.samples)
    return any(character.isalnum() and not character.isascii() for character in texts)


@pytest.mark.parametrize("name", NAMES)
def test_the_numbers_follow_from_lm_polygraphs(name: str) -> None:
    estimates = {case.name: METHODS[name].estimate(case.evidence) for case in CASES}
    values = {case: as_number(estimate.value) for case, estimate in estimates.items()}
    ours = RELATIONS.get(name, lambda theirs, _: theirs)
    expected = {case.name: ours(as_number(case.values[name]), case) for case in CASES}
    assert values == pytest.approx(expected, rel=1e-5, abs=1e-5, nan_ok=True)
    # rouge_score reads a-z and 0-9 only: of other letters its number is there, and not exact.
    rouge = name.startswith("lexical_similarity_rouge")
    unread = {case.name for case in CASES if rouge and has_other_letters(case)}
    assert {case for case, estimate in estimates.items() if not estimate.exact} == unread


@pytest.mark.parametrize("name", NAMES)
def test_the_recorded_numbers_tell_cases_apart(name: str) -> None:
    assert len({case.values[name] for case in CASES}) > 2


def test_the_stems_are_nltks() -> None:
    assert {word: stem(word) for word in VECTORS["stems"]} == VECTORS["stems"]
