"""The engine's rows against the reference's: the arithmetic."""

from __future__ import annotations

import numpy as np
import pytest

from conf_server.check.compare import compare, pooled
from conf_server.check.reference_rows import ReferenceRows, reference_rows
from conf_server.check.reference_statistics import (
    StatisticDifference,
    distances,
)
from conf_server.check.tolerance import BY_DTYPE
from conf_server.stats.columns import TokenStatistic
from tests.unit.check.rows import (
    IDS,
    LIMITS,
    LOGPROBS,
    compared,
    difference,
    engine,
    reference,
    rows_with_statistics,
)


def test_equal_rows_do_not_differ() -> None:
    found = compare(engine(), reference(), sampled=False)
    assert found == difference(num_tokens=3, coverage=pytest.approx((0.9 + 0.7 + 0.95) / 3))


def test_known_differences() -> None:
    shifted = LOGPROBS.copy()
    shifted[0, 0] -= 0.3
    shifted[2, 0] += 0.6
    found = compare(engine(logprobs=shifted), reference(), sampled=False)
    assert found is not None
    assert found.mean == pytest.approx(0.3)
    assert found.max == pytest.approx(0.6)
    assert (found.worst, found.agreement, found.kl) == (2, 1.0, 0.0)


def test_kl_is_that_of_the_reference_over_the_engines_candidates() -> None:
    ours = np.log([[0.6, 0.6, 0.3], [0.2, 0.4, 0.2], [0.9, 0.9, 0.05]])
    found = compare(engine(logprobs=ours), reference(), sampled=False)
    assert found is not None
    assert found.kl == pytest.approx(0.5 * np.log(0.5 / 0.4) / 3)


def test_a_candidate_that_the_reference_excludes_adds_nothing() -> None:
    theirs = LOGPROBS.copy()
    theirs[:, 2] = -np.inf
    found = compare(engine(), reference(theirs), sampled=False)
    assert found is not None
    assert (found.kl, found.coverage) == (0.0, pytest.approx(2.0 / 3))


def test_swapped_rows_are_far_apart() -> None:
    swapped = [1, 0, 2]
    found = compare(
        engine(),
        reference(LOGPROBS[swapped], best=np.array([7, 4, 9])[swapped]),
        sampled=False,
    )
    assert found is not None
    assert found.agreement == pytest.approx(1 / 3)
    assert found.max == pytest.approx(np.log(3))
    assert LIMITS.exceeded(found)


def test_a_choice_costs_what_the_reference_thinks_of_it() -> None:
    best = ReferenceRows(
        LOGPROBS[:, 0], LOGPROBS[:, 1:], np.array([7, 8, 9]), np.log([0.6, 0.55, 0.9])
    )
    found = compare(engine(), best, sampled=False)
    assert found is not None
    assert found.agreement == pytest.approx(2 / 3)
    assert found.regret == pytest.approx(np.log(0.55 / 0.5))


def test_of_generated_rows_the_choice_is_the_token() -> None:
    found = compare(engine(), reference(), sampled=True)
    assert found is not None
    assert found.agreement == pytest.approx(2 / 3)
    assert found.regret == pytest.approx(np.log(0.5 / 0.2))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_infinitely_wrong(value: float) -> None:
    broken = LOGPROBS.copy()
    broken[1] = value
    for ours, theirs in ((broken, LOGPROBS), (LOGPROBS, broken)):
        found = compare(engine(logprobs=ours), reference(theirs), sampled=False)
        assert found is not None
        assert (found.mean, found.max, found.worst) == (np.inf, np.inf, 1)
        assert "mean inf" in LIMITS.exceeded(found)


def test_both_not_a_number_is_wrong_and_the_same_infinity_is_not() -> None:
    left = np.array([np.nan, -np.inf, np.inf, 1.0], np.float32)
    right = np.array([np.nan, -np.inf, -np.inf, 1.5])
    assert distances(left, right).tolist() == [np.inf, 0.0, np.inf, 0.5]


def test_no_token_no_difference() -> None:
    none = slice(0, 0)
    rows = ReferenceRows(LOGPROBS[none, 0], LOGPROBS[none, 1:], np.array([]), np.array([]))
    assert compare(engine(IDS[none], LOGPROBS[none]), rows, sampled=False) is None


def test_rows_of_other_tokens_are_refused() -> None:
    with pytest.raises(ValueError, match="candidates"):
        compare(engine(), reference(LOGPROBS[:2], best=(7, 4)), sampled=False)


def test_pooled_counts_tokens_not_texts() -> None:
    found = pooled(
        [
            difference(num_tokens=1, mean=1.0, max=1.0, agreement=0.0, regret=0.5),
            difference(num_tokens=9, mean=0.0, max=0.2, agreement=1.0, regret=0.1),
        ]
    )
    assert found.num_tokens == 10
    assert (found.mean, found.max, found.agreement, found.regret) == (0.1, 1.0, 0.9, 0.5)


def test_right_statistics_do_not_differ() -> None:
    logits = np.random.default_rng(0).normal(0, 3, (40, 500)).astype(np.float32)
    found = compared(logits, rows_with_statistics(logits))
    assert [column.name for column in found.statistics] == [
        column.name.lower() for column in TokenStatistic
    ]
    assert max(column.max for column in found.statistics) < 1e-5
    assert not BY_DTYPE["float32"].exceeded(found)


def test_statistics_on_one_side_only_are_refused() -> None:
    logits = np.zeros((2, 9), np.float32)
    with pytest.raises(ValueError, match="one side only"):
        compared(logits, rows_with_statistics(logits, None))
    rows = rows_with_statistics(logits)
    with pytest.raises(ValueError, match="one side only"):
        compare(rows, reference_rows(logits, rows.token_ids, rows.candidate_ids, False), True)


def test_pooled_statistics_count_tokens_not_texts() -> None:
    one = difference(num_tokens=1, statistics=(StatisticDifference("entropy", 1.0, 1.0),))
    nine = difference(num_tokens=9, statistics=(StatisticDifference("entropy", 0.0, 2.0),))
    assert pooled([one, nine]).statistics == (StatisticDifference("entropy", 0.1, 2.0),)
    assert pooled([one, difference()]).statistics == ()
