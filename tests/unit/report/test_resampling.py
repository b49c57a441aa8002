"""What chance alone would do to the figures, against slow definitions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from conf_server.report.evaluation_metrics import Levels, auroc, prr
from conf_server.report.resampling import (
    bootstrap_draws,
    bootstrap_intervals,
    bootstrap_means,
    chance_of_the_best,
    percentile_interval,
)
from tests.unit.report.test_evaluation_metrics import slow_auroc


def interval(
    metric: Any, u: Any, wrong: Any, resamples: int = 1000, seed: int = 0
) -> tuple[float, float]:
    (found,) = bootstrap_intervals([metric], u, wrong, resamples, seed)
    assert found is not None
    return found


def test_the_interval_is_that_of_a_slow_bootstrap() -> None:
    rng = np.random.default_rng(1)
    wrong = rng.random(60) < 0.4
    u = (rng.normal(size=60) + wrong).round(1)
    draws = np.random.default_rng(9)
    found = []
    for _ in range(200):
        rows = draws.integers(60, size=60)
        found.append(slow_auroc([(u[row], bool(wrong[row])) for row in rows]))
    low, high = interval(auroc, u, wrong, resamples=200, seed=9)
    assert (low, high) == pytest.approx(tuple(np.quantile(found, [0.025, 0.975])))
    assert low < auroc(Levels.of(u, wrong)) < high


def test_intervals_depend_on_the_seed_alone() -> None:
    u, wrong = np.arange(50.0) % 17, np.arange(50) % 3 == 0
    assert interval(prr, u, wrong, 100, 1) == interval(prr, u, wrong, 100, 1)
    assert interval(prr, u, wrong, 100, 1) != interval(prr, u, wrong, 100, 2)


def test_metrics_that_share_resamples_have_the_intervals_of_each_alone() -> None:
    u, wrong = np.arange(50.0) % 17, np.arange(50) % 3 == 0
    alone = [interval(auroc, u, wrong), interval(prr, u, wrong)]
    assert bootstrap_intervals([auroc, prr], u, wrong) == alone


def test_nineteen_of_twenty_intervals_hold_the_truth() -> None:
    # P(N(1, 1) > N(0, 1)) = Phi(1 / sqrt 2)
    truth, held = 0.7602, 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        wrong = rng.random(150) < 0.4
        u = rng.normal(size=150) + wrong
        low, high = interval(auroc, u, wrong, resamples=200, seed=seed)
        held += low <= truth <= high
    assert 0.89 <= held / 200 <= 0.99


def test_one_wrong_answer_gives_no_interval() -> None:
    assert bootstrap_intervals([auroc], np.arange(20), np.arange(20) == 19) == [None]


def test_answers_without_a_value_are_drawn_and_do_not_count() -> None:
    rng = np.random.default_rng(5)
    wrong = rng.random(60) < 0.4
    full = rng.normal(size=60) + wrong
    holes = np.where(np.arange(60) % 4, full, np.nan)
    (drawn,) = bootstrap_draws([auroc], holes, wrong, 50, 7)
    draws = np.random.default_rng(7)
    for figure in drawn.figures:
        rows = draws.integers(60, size=60)
        rows = rows[~np.isnan(holes[rows])]
        assert figure == pytest.approx(roc_auc_score(wrong[rows], full[rows]))


def test_what_keeps_resamples_from_having_a_figure() -> None:
    (few,) = bootstrap_draws([auroc], np.arange(20), np.arange(20) == 19)
    assert few.obstacle == "no wrong answer"
    (alike,) = bootstrap_draws([auroc], np.arange(50) < 2, np.arange(50) % 2)
    assert alike.obstacle == "all values are equal"


def test_a_difference_of_draws_has_an_interval_only_where_both_are_defined() -> None:
    figures = np.linspace(0, 1, 1000)
    assert percentile_interval(figures) == pytest.approx((0.025, 0.975))
    figures[:51] = np.nan
    assert percentile_interval(figures) is None


def test_the_best_of_useless_methods_is_as_good_as_shuffled_labels_make_it() -> None:
    """The chances of true nulls are even: one in ten is below a tenth."""
    found = []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        methods = [rng.normal(size=40) for _ in range(6)]
        found.append(chance_of_the_best(methods, np.arange(40) < 15, 100, seed))
    assert 0.04 <= np.mean(np.array(found) <= 0.1) <= 0.17
    assert 0.43 <= np.mean(found) <= 0.57


def test_the_best_of_shuffles_by_hand() -> None:
    rng = np.random.default_rng(1)
    wrong = rng.random(40) < 0.4
    methods = [rng.normal(size=40) + 0.7 * wrong, rng.normal(size=40).round(), rng.normal(size=40)]
    methods[2][:10] = np.nan

    def best(labels: Any) -> float:
        return max(
            auroc(Levels.of(one[kept], labels[kept]))
            for one, kept in ((one, ~np.isnan(one)) for one in methods)
        )

    seen = best(wrong)
    shuffles = np.random.default_rng(9)
    slow = [best(shuffles.permutation(wrong)) >= seen - 1e-12 for _ in range(2000)]
    assert chance_of_the_best(methods, wrong, 2000, 3) == pytest.approx(np.mean(slow), abs=0.04)


def test_a_method_that_knows_has_the_least_chance() -> None:
    wrong = np.arange(60) < 25
    methods = [wrong + np.arange(60) / 100, np.arange(60.0) % 7]
    assert chance_of_the_best(methods, wrong, 199) == 1 / 200


def test_means_are_over_the_rows_that_figures_are_drawn_over() -> None:
    wrong = np.random.default_rng(1).random(50) < 0.4

    def share_of_wrong(levels: Levels) -> float:
        return float(levels.wrong.sum() / levels.total.sum())

    (drawn,) = bootstrap_draws([share_of_wrong], np.arange(50), wrong, 30, 5)
    both = bootstrap_means(np.stack([wrong, ~wrong], axis=1), 30, 5)
    assert both[:, 0] == pytest.approx(drawn.figures)
    assert both.sum(axis=1) == pytest.approx(1)
