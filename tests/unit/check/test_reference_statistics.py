"""The reference's token statistics, and how far they can move."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from conf_server.check.reference_rows import log_softmax
from conf_server.check.reference_statistics import DOMINANT, distances, reference_statistics
from conf_server.engine.worker.token_statistics import statistics_torch
from conf_server.stats.columns import TokenStatistic
from tests.reference import token_statistics
from tests.unit.check.rows import TOP_K

logit_rows = arrays(np.float32, (4, 9), elements=st.floats(-20, 20, width=32))


@given(logit_rows)
def test_the_references_statistics_are_those_of_their_definitions(logits: Any) -> None:
    logprobs = torch.tensor(logits).double().log_softmax(-1).numpy()
    found = reference_statistics(log_softmax(logits), TOP_K)
    np.testing.assert_allclose(found.values, token_statistics(logprobs, TOP_K), atol=1e-12)


def test_impossible_tokens_count_as_the_engine_counts_them() -> None:
    logits = np.array([[0.0, 1.0, -np.inf, 2.0, 0.5], [0.0, 1.0, -np.inf, -np.inf, -np.inf]])
    found = reference_statistics(log_softmax(logits), TOP_K).values
    ours = statistics_torch(torch.tensor(logits, dtype=torch.float32), [TOP_K] * 2).numpy()
    np.testing.assert_allclose(found, ours, rtol=1e-6, atol=1e-7)
    assert np.isinf(found[1, TokenStatistic.CONFIDENCE])


@given(logit_rows, logit_rows, st.floats(1e-5, 0.01))
def test_no_statistic_is_further_off_than_the_rows_log_probabilities(
    logits: Any, direction: Any, size: float
) -> None:
    ours, theirs = log_softmax(logits + size * direction / 20), log_softmax(logits)
    moved = np.abs(ours - theirs).max(axis=1, keepdims=True)
    reference = reference_statistics(theirs, TOP_K)
    engine = reference_statistics(ours, TOP_K).values
    apart = distances(engine, reference.values)
    # Another number of tokens may be dominant.
    apart[:, DOMINANT] = reference.dominant.distances(engine[:, DOMINANT])
    # The entropy's bound is of first order.
    columns = np.arange(len(TokenStatistic))
    room = np.where(columns == TokenStatistic.ENTROPY, 20 * moved**2, 0) + 1e-12
    assert (apart <= reference.sensitivities * moved + room).all()


def test_one_dominant_token_more_is_as_wrong_as_what_it_takes() -> None:
    # The third token falls by 0.0049 to the next: by 0.0051 it would be the last dominant one.
    p = np.array([0.6, 0.3, 0.0060, *[0.0011] * 85, 0.0005])
    reference = reference_statistics(log_softmax(np.log(p)[None]), TOP_K)
    assert reference.values[0, DOMINANT] == pytest.approx(np.log([0.9, 0.3] / p.sum()), abs=1e-12)
    (one_more,) = reference.dominant.distances(np.log([[0.906, 0.006] / p.sum()]))
    assert 0.01 < one_more[1] < 0.02
    (none,) = reference.dominant.distances(np.array([[-np.inf, np.inf]]))
    assert none[1] > 1
    (wrong,) = reference.dominant.distances(np.log([[0.5, 0.25]]))
    assert wrong[1] == pytest.approx(np.log(0.3 / p.sum() / 0.25), abs=1e-12)
