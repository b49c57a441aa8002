"""Metrics of an answer from its rows, with the engine's statistics and without."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from conf_server.stats.metrics import METRICS, TOP_K_METRICS, metric_values
from conf_server.stats.row_layout import ColumnGroup
from conf_server.stats.sequence import perplexity
from conf_server.stats.trace import TokenTrace, TraceRows
from tests.reference import metrics_by_definition, token_statistics

VOCABULARY = 50
K = 4


def distributions(n: int, seed: int = 0) -> NDArray[np.float64]:
    logits = np.random.default_rng(seed).normal(scale=3, size=(n, VOCABULARY))
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def rows_of(rows: NDArray[np.float64], tokens: list[int], with_statistics: bool) -> TraceRows:
    order = np.argsort(-rows, axis=1)[:, :K]
    ids = np.column_stack((tokens, order))
    logprobs = np.take_along_axis(rows, ids, axis=1)
    groups = (ColumnGroup.STATISTICS,) if with_statistics else ()
    if groups:
        logprobs = np.column_stack((logprobs, token_statistics(rows, K)))
    trace = TokenTrace(K, groups)
    trace.append(ids, logprobs, np.ones(len(rows), int))
    return trace.all()


@pytest.mark.parametrize("name", METRICS)
def test_with_statistics_every_metric_is_exact(name: str) -> None:
    rows, tokens = distributions(6), [3, 1, 4, 1, 5, 9]
    metric = metric_values(rows_of(rows, tokens, True), name, K, VOCABULARY)
    assert metric.exact
    assert metric.value == pytest.approx(metrics_by_definition(rows, tokens)[name], abs=1e-5)
    for value, row, token in zip(metric.tokens, rows, tokens, strict=True):
        expected = metrics_by_definition(row[None], [token])[name]
        assert value == pytest.approx(expected, rel=1e-6, abs=1e-5)


@pytest.mark.parametrize("name", METRICS)
def test_without_them_only_what_the_top_k_can_tell_has_a_value(name: str) -> None:
    rows, tokens = distributions(6), [3, 1, 4, 1, 5, 9]
    metric = metric_values(rows_of(rows, tokens, False), name, K, VOCABULARY)
    exact = metrics_by_definition(rows, tokens)[name]
    if name in ("perplexity", "maximum_sequence_probability"):
        assert metric.exact
        assert metric.value == pytest.approx(exact, abs=1e-5)
        return
    assert not metric.exact
    assert (metric.value is not None) == (name in TOP_K_METRICS)
    if metric.value is not None:
        assert 0 < metric.value < exact  # a lower bound of the entropy


@pytest.mark.parametrize("name", METRICS)
def test_tokens_without_numbers_are_left_out(name: str) -> None:
    rows, tokens = distributions(3), [7, 8, 9]
    whole = metric_values(rows_of(rows[1:], tokens[1:], True), name, K, VOCABULARY)
    rows[0] = np.nan
    part = metric_values(rows_of(rows, tokens, True), name, K, VOCABULARY)
    assert part.value == pytest.approx(whole.value, abs=1e-6)
    assert np.isnan(part.tokens[0])
    nothing = metric_values(rows_of(rows[:1], tokens[:1], True), name, K, VOCABULARY)
    assert nothing.value is None


def test_a_flat_distribution() -> None:
    flat = np.full((1, VOCABULARY), -np.log(VOCABULARY))
    rows = rows_of(flat, [0], True)
    values = {name: metric_values(rows, name, K, VOCABULARY).value for name in METRICS}
    assert values["perplexity"] == pytest.approx(VOCABULARY, rel=1e-5)
    assert values["fisher_rao"] == pytest.approx(0, abs=1e-3)
    assert values["renyi_neg"] == pytest.approx(0, abs=1e-5)
    assert values["self_certainty"] == pytest.approx(0, abs=1e-5)
    assert values["probability_gap"] == pytest.approx(1, abs=1e-5)
    assert values["mean_token_entropy"] == pytest.approx(np.log(VOCABULARY), abs=1e-5)


@pytest.mark.parametrize("name", METRICS)
def test_a_flatter_distribution_is_less_sure(name: str) -> None:
    likeliest = distributions(1).argmax()
    flattened = [np.log(np.exp(distributions(1) * sharpness)) for sharpness in (2, 1, 0.5, 0)]
    flattened = [rows - np.log(np.exp(rows).sum()) for rows in flattened]
    values = [
        metric_values(rows_of(rows, [likeliest], True), name, K, VOCABULARY).value
        for rows in flattened
    ]
    assert values == sorted(values)
    assert len(set(values)) == len(values)


def test_perplexity_is_one_number_wherever_it_is_shown() -> None:
    logprobs = np.log([0.5, 0.125, 0.25])
    rows = TraceRows(np.zeros((3, 1), np.int32), logprobs[:, None], np.zeros(3, np.int32), None)
    found = metric_values(rows, "perplexity", 0, VOCABULARY)
    assert found.value == pytest.approx(perplexity(logprobs)) == pytest.approx(4)
    assert found.tokens == pytest.approx([2, 8, 4])


@pytest.mark.filterwarnings("error")
def test_a_perplexity_beyond_floats_is_infinite_for_its_token_alone() -> None:
    logprobs = np.array([-1000.0, 0.0, 0.0, 0.0])
    rows = TraceRows(np.zeros((4, 1), np.int32), logprobs[:, None], np.zeros(4, np.int32), None)
    found = metric_values(rows, "perplexity", 0, VOCABULARY)
    assert found.tokens.tolist() == [np.inf, 1, 1, 1]
    assert found.value == pytest.approx(np.exp(250))


def test_tokens_that_stand_out_share_their_probability() -> None:
    likely = np.array([0.45, 0.4, *[0.15 / 15] * 15])
    rows, tokens = np.log(np.tile(likely, (3, 1))), [0, 1, 2]
    answer = rows_of(rows, tokens, True)
    # The engine's log-probability of a token may be rounded otherwise than its statistics.
    rounded = replace(answer, logprobs=answer.logprobs - np.float32(1e-3))
    for trace in (answer, rounded):
        found = metric_values(trace, "boosted_prob_sequence", K, len(likely))
        assert found.tokens == pytest.approx([-0.85, -0.85, -0.01], rel=2e-3)
        assert found.value == pytest.approx(-(0.85 + 0.85 + 0.01) / 3, rel=2e-3)


def test_an_unknown_metric_is_an_error() -> None:
    with pytest.raises(KeyError):
        metric_values(rows_of(distributions(1), [0], True), "magic", K, VOCABULARY)
