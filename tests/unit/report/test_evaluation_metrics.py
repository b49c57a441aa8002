"""AUROC, PRR, ECE and the rest, against slow definitions and lm-polygraph."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from fractions import Fraction
from itertools import permutations
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from conf_server.report.evaluation_metrics import (
    Levels,
    UndefinedError,
    aurc,
    auroc,
    confidence_percentile,
    ece,
    levels_of,
    midranks,
    oracle_curve,
    prediction_rejection_area,
    prr,
    reliability,
    risk_at,
    risk_coverage,
    spearman,
    wilson_interval,
)

LABELS = st.lists(st.booleans(), min_size=2, max_size=40)
COARSE = st.integers(0, 5).map(float)
"""Many ties."""


def labelled(values: st.SearchStrategy[float]) -> st.SearchStrategy[list[tuple[float, bool]]]:
    return st.lists(st.tuples(values, st.booleans()), min_size=2, max_size=40).filter(
        lambda rows: len({wrong for _, wrong in rows}) == 2 and len({u for u, _ in rows}) > 1
    )


def distinct(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).permutation(count) / 7


def slow_auroc(rows: Sequence[tuple[float, bool]]) -> float:
    wrong = [u for u, is_wrong in rows if is_wrong]
    right = [u for u, is_wrong in rows if not is_wrong]
    won = sum((w > r) + (w == r) / 2 for w in wrong for r in right)
    return won / (len(wrong) * len(right))


def slow_area(wrong: Sequence[bool]) -> Fraction:
    """Of answers in this order, the surest first."""
    shares = [Fraction(k - sum(wrong[:k]), k) for k in range(1, len(wrong) + 1)]
    return sum(shares, Fraction(0)) / len(wrong)


@given(labelled(COARSE))
def test_auroc_counts_pairs(rows: list[tuple[float, bool]]) -> None:
    levels = Levels.of(*zip(*rows, strict=True))
    assert auroc(levels) == pytest.approx(slow_auroc(rows), abs=1e-12)


@given(labelled(COARSE))
def test_turning_the_uncertainty_around_mirrors_auroc(rows: list[tuple[float, bool]]) -> None:
    u, wrong = zip(*rows, strict=True)
    mirrored = auroc(Levels.of(-np.array(u), wrong))
    assert mirrored == pytest.approx(1 - auroc(Levels.of(u, wrong)), abs=1e-12)


@given(labelled(COARSE))
def test_figures_see_the_order_alone(rows: list[tuple[float, bool]]) -> None:
    u, wrong = zip(*rows, strict=True)
    levels, other = Levels.of(u, wrong), Levels.of(np.exp(u), wrong)
    assert (auroc(levels), prr(levels)) == (auroc(other), prr(other))


def test_by_hand() -> None:
    levels = Levels.of([0.1, 0.2, 0.3, 0.4], [False, True, False, True])
    assert auroc(levels) == 0.75
    # Shares of correct answers 1, 1/2, 2/3, 1/2; of an oracle 1, 1, 2/3, 1/2.
    assert prediction_rejection_area(levels) == pytest.approx((1 + 1 / 2 + 2 / 3 + 1 / 2) / 4)
    assert prr(levels) == pytest.approx((8 / 3 - 2) / (19 / 6 - 2))


@given(LABELS, st.integers(0, 99))
def test_area_without_ties(wrong: list[bool], seed: int) -> None:
    u = distinct(len(wrong), seed)
    ordered = [wrong[place] for place in np.argsort(u)]
    area = prediction_rejection_area(Levels.of(u, wrong))
    assert area == pytest.approx(float(slow_area(ordered)), abs=1e-12)


@given(st.lists(st.tuples(st.integers(0, 2), st.booleans()), min_size=1, max_size=6))
def test_area_of_ties_is_the_mean_over_their_orders(rows: list[tuple[int, bool]]) -> None:
    orders = [
        slow_area([wrong for _, wrong in order])
        for order in permutations(rows)
        if [u for u, _ in order] == sorted(u for u, _ in rows)
    ]
    area = prediction_rejection_area(Levels.of(*zip(*rows, strict=True)))
    assert area == pytest.approx(float(sum(orders, Fraction(0)) / len(orders)), abs=1e-12)


def test_prr_of_an_oracle_of_its_opposite_and_of_chance() -> None:
    wrong = np.arange(100) >= 60
    assert prr(Levels.of(np.arange(100), wrong)) == pytest.approx(1)
    assert prr(Levels.of(-np.arange(100), wrong)) < -0.5
    drawn = [prr(Levels.of(distinct(100, seed), wrong)) for seed in range(500)]
    assert np.mean(drawn) == pytest.approx(0, abs=0.02)


# (uncertainty, correct, area): lm-polygraph 0.7.0's PredictionRejectionArea.
FROM_LM_POLYGRAPH = [
    ([0.0, 0.75, 0.5, 0.25], "1001", 0.7916666666666666),
    ([1.0, 1.5, 0.5, 0.0, 1.75, 0.25, 0.75, 1.25], "10100110", 0.556845238095238),
    (
        [1.75, 1.5, 0.25, 0.0, 1.25, 0.5, 2.25, 2.75, 1.0, 0.75, 2.0, 2.5],
        "101110110100",
        0.6803421115921117,
    ),
]


@pytest.mark.parametrize(("u", "correct", "area"), FROM_LM_POLYGRAPH)
def test_areas_of_lm_polygraph(u: list[float], correct: str, area: float) -> None:
    wrong = [one == "0" for one in correct]
    assert prediction_rejection_area(Levels.of(u, wrong)) == pytest.approx(area, abs=1e-12)


def lm_polygraph_metrics() -> Any:
    """Its two modules; the rest of the package wants much more than numpy."""
    found = importlib.util.find_spec("lm_polygraph")
    if found is None or not found.submodule_search_locations:
        pytest.skip("lm-polygraph is not installed; areas are held against recorded ones")
    folder = Path(found.submodule_search_locations[0]) / "ue_metrics"
    package = ModuleType("lm_polygraph_ue_metrics")
    package.__path__ = [str(folder)]
    sys.modules[package.__name__] = package
    return importlib.import_module(f"{package.__name__}.pred_rej_area")


@pytest.mark.parametrize("count", [5, 50, 500])
def test_lm_polygraph_gives_the_same_area_and_ratio(count: int) -> None:
    theirs = lm_polygraph_metrics()
    base = sys.modules[theirs.UEMetric.__module__]
    metric = theirs.PredictionRejectionArea()
    correct = np.random.default_rng(3).random(count) < 0.7
    correct[:2] = True, False
    u = distinct(count, count) + 0.3 * ~correct
    target = correct.astype(float)
    area, oracle = metric(u, target), metric(-target, target)
    levels = Levels.of(u, ~correct)
    assert prediction_rejection_area(levels) == pytest.approx(area, abs=1e-12)
    expected = base.normalize_metric(area, oracle, target.mean())
    assert prr(levels) == pytest.approx(expected, abs=1e-12)
    # Theirs shuffles a thousand times for chance, ours is its expectation.
    shuffled = base.normalize_metric(area, oracle, base.get_random_scores(metric, target))
    assert prr(levels) == pytest.approx(shuffled, abs=0.05)


@pytest.mark.parametrize("metric", [auroc, prr])
@pytest.mark.parametrize(
    ("u", "wrong", "reason"),
    [
        ([], [], "no labelled answer"),
        ([1, 2], [True, True], "no correct answer"),
        ([1, 2], [False, False], "no wrong answer"),
        ([3, 3], [False, True], "all values are equal"),
    ],
)
def test_what_is_not_defined_has_no_value(
    metric: object, u: list[float], wrong: list[bool], reason: str
) -> None:
    with pytest.raises(UndefinedError, match=reason):
        metric(Levels.of(u, wrong))  # type: ignore[operator]


@pytest.mark.parametrize("u", [[np.nan, 1.0], [np.inf, 1.0], [1.0]])
def test_numbers_that_are_none_are_refused(u: list[float]) -> None:
    with pytest.raises(ValueError, match=r"finite|shapes"):
        Levels.of(u, [True, False])


@given(labelled(COARSE))
def test_risk_coverage(rows: list[tuple[float, bool]]) -> None:
    coverage, risk = risk_coverage(Levels.of(*zip(*rows, strict=True)))
    thresholds = sorted({u for u, _ in rows})
    for place, threshold in enumerate(thresholds):
        kept = [wrong for u, wrong in rows if u <= threshold]
        assert coverage[place] == pytest.approx(len(kept) / len(rows))
        assert risk[place] == pytest.approx(sum(kept) / len(kept))
    assert len(coverage) == len(thresholds)


# Rounding


@given(st.lists(st.tuples(COARSE, st.floats(-1, 1)), min_size=1), st.floats(1e-3, 1e9))
def test_rounding_makes_no_levels(rows: list[tuple[float, float]], scale: float) -> None:
    exact = np.array([value for value, _ in rows])
    rounded = exact + 1e-11 * exact.max() * np.array([noise for _, noise in rows])
    assert levels_of(rounded * scale).tolist() == levels_of(exact * scale).tolist()
    assert levels_of(exact).tolist() == np.unique(exact, return_inverse=True)[1].tolist()


def test_the_rounding_of_zero_makes_no_levels() -> None:
    assert levels_of([1e-16, -3e-17, 0.0]).tolist() == [0, 0, 0]


def test_small_steps_are_levels() -> None:
    assert levels_of([1.0, 1.0 + 1e-8, 1.0 + 2e-8]).tolist() == [0, 1, 2]


@pytest.mark.parametrize("metric", [auroc, prr])
def test_rounding_alone_tells_nothing_apart(metric: Any) -> None:
    rng = np.random.default_rng(0)
    u = np.array([np.cumsum(rng.permutation([0.1, 0.2, 0.3, 0.7, 1.1]))[-1] for _ in range(40)])
    assert np.unique(u).size > 1
    with pytest.raises(UndefinedError, match="all values are equal"):
        metric(Levels.of(u, np.arange(40) % 2 == 0))
    with pytest.raises(UndefinedError, match="all values are equal"):
        spearman(u, np.arange(40))


# Calibration

CONFIDENT = st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=60)


@given(CONFIDENT)
def test_ece_is_the_definition(rows: list[tuple[float, bool]]) -> None:
    bins: dict[int, list[tuple[float, bool]]] = {}
    for confidence, correct in rows:
        bins.setdefault(min(int(confidence * 10), 9), []).append((confidence, correct))
    expected = sum(
        abs(sum(correct for _, correct in one) - sum(confidence for confidence, _ in one))
        for one in bins.values()
    ) / len(rows)
    assert ece(reliability(*zip(*rows, strict=True))) == pytest.approx(expected, abs=1e-12)


def test_ece_by_hand() -> None:
    assert ece(reliability([0.8, 0.8, 0.8, 0.8, 0.8], [1, 1, 1, 1, 0])) == pytest.approx(0)
    assert ece(reliability([1.0, 1.0, 0.0], [True, False, False])) == pytest.approx(1 / 3)


@pytest.mark.parametrize("confidence", [[1.01], [-0.01], [np.nan]])
def test_no_calibration_of_what_is_no_probability(confidence: list[float]) -> None:
    with pytest.raises(UndefinedError, match="outside"):
        reliability(confidence, [True])


@given(st.lists(COARSE, min_size=1, max_size=40))
def test_percentiles_keep_the_order(u: list[float]) -> None:
    confidence = confidence_percentile(u)
    n = len(u)
    for one, value in zip(u, confidence, strict=True):
        less_sure = sum(other > one for other in u) + sum(other == one for other in u) / 2
        assert value == pytest.approx(less_sure / n)


# Ranks


@given(st.lists(COARSE, min_size=1, max_size=40))
def test_midranks(values: list[float]) -> None:
    for one, rank in zip(values, midranks(values), strict=True):
        below, equal = sum(v < one for v in values), sum(v == one for v in values)
        assert rank == below + (equal + 1) / 2


@given(st.lists(st.tuples(COARSE, COARSE), min_size=2, max_size=40))
def test_spearman_is_pearsons_of_the_ranks(rows: list[tuple[float, float]]) -> None:
    x, y = (np.array(side) for side in zip(*rows, strict=True))
    assume(len(set(x)) > 1 and len(set(y)) > 1)
    expected = np.corrcoef(midranks(x), midranks(y))[0, 1]
    assert spearman(x, y) == pytest.approx(expected, abs=1e-12)
    assert spearman(x, -x) == pytest.approx(-1)


@pytest.mark.parametrize("pair", [([], []), ([1], [2]), ([1, 1], [1, 2]), ([1, 2], [3, 3])])
def test_no_correlation(pair: tuple[list[float], list[float]]) -> None:
    with pytest.raises(UndefinedError):
        spearman(*pair)


# Intervals


def test_auroc_and_the_curve_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(2)
    for decimals in (1, 3):
        wrong = rng.random(200) < 0.3
        u = (rng.normal(size=200) + wrong).round(decimals)
        assert auroc(Levels.of(u, wrong)) == pytest.approx(roc_auc_score(wrong, u))


@given(labelled(COARSE))
def test_aurc_by_hand(rows: list[tuple[float, bool]]) -> None:
    """The mean over k of the errors among the k surest; each tied answer is wrong in part."""
    tied: dict[float, list[bool]] = {}
    for u, wrong in rows:
        tied.setdefault(u, []).append(wrong)
    parts = [Fraction(sum(tied[u]), len(tied[u])) for u, _ in sorted(rows)]
    risks = [sum(parts[:k]) / k for k in range(1, len(parts) + 1)]
    assert aurc(Levels.of(*zip(*rows, strict=True))) == pytest.approx(
        float(sum(risks) / len(risks))
    )


@given(labelled(COARSE), st.floats(0.01, 1))
def test_the_risk_at_a_coverage_by_hand(rows: list[tuple[float, bool]], coverage: float) -> None:
    tied: dict[float, list[bool]] = {}
    for u, wrong in rows:
        tied.setdefault(u, []).append(wrong)
    parts = [Fraction(sum(tied[u]), len(tied[u])) for u, _ in sorted(rows)]
    kept = max(1, round(coverage * len(rows)))
    found = risk_at(Levels.of(*zip(*rows, strict=True)), coverage)
    assert found == pytest.approx(float(sum(parts[:kept]) / kept))


def test_an_oracle_s_curve_is_that_of_a_perfect_method() -> None:
    wrong = np.arange(200) >= 130
    levels = Levels.of(np.arange(200), wrong)
    coverage, risk = risk_coverage(levels)
    assert np.interp(coverage, *oracle_curve(levels, 2001)) == pytest.approx(risk, abs=1e-3)


def test_wilson_s_intervals() -> None:
    """Known values: 0 of 10, 5 of 10, 81 of 263 (Newcombe 1998, table I)."""
    low, high = wilson_interval([0, 5, 81], [10, 10, 263])
    assert low == pytest.approx([0, 0.2366, 0.2553], abs=1e-4)
    assert high == pytest.approx([0.2775, 0.7634, 0.3662], abs=1e-4)
