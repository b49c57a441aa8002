"""The limits: whose they are, and what is past them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from conf_server.check.tolerance import BY_DTYPE, QUANTIZED, Tolerance, tolerance_for
from conf_server.engine.worker.token_statistics import statistics_torch
from conf_server.stats.columns import TokenStatistic
from tests.unit.check.rows import (
    TOP_K,
    compared,
    rows_with_statistics,
)


@pytest.mark.parametrize(
    ("dtype", "quantization", "expected"),
    [
        ("float32", None, BY_DTYPE["float32"]),
        ("float16", None, BY_DTYPE["float16"]),
        ("bfloat16", None, BY_DTYPE["bfloat16"]),
        ("float8", None, BY_DTYPE["bfloat16"]),
        ("bfloat16", "fp8", QUANTIZED),
    ],
)
def test_the_tolerance_follows_the_engine(
    dtype: str, quantization: str | None, expected: Tolerance
) -> None:
    assert tolerance_for(dtype, quantization) == expected
    assert tolerance_for(dtype, quantization, mean=0.0, max=7.0, agreement=None) == Tolerance(
        0.0, 7.0, expected.agreement
    )


def test_rougher_numbers_have_wider_limits() -> None:
    order = [*(BY_DTYPE[name] for name in ("float32", "float16", "bfloat16")), QUANTIZED]
    assert [limits.mean for limits in order] == sorted(limits.mean for limits in order)
    assert [limits.max for limits in order] == sorted(limits.max for limits in order)
    assert [limits.agreement for limits in order] == sorted(
        (limits.agreement for limits in order), reverse=True
    )


# What these columns hold where no token is dominant: only as wrong as what that takes.
NO_DOMINANT = [
    (TokenStatistic.LOG_DOMINANT_MASS, -np.inf),
    (TokenStatistic.DOMINANT_LOGPROB, np.inf),
]


@pytest.mark.parametrize(
    ("column", "wrong"),
    [
        (column, wrong)
        for column in TokenStatistic
        for wrong in (1e9, np.nan, np.inf, -np.inf)
        if (column, wrong) not in NO_DOMINANT
    ],
)
def test_each_wrong_statistic_fails_by_its_name(column: TokenStatistic, wrong: float) -> None:
    logits = np.random.default_rng(0).normal(0, 3, (4, 50)).astype(np.float32)
    rows = rows_with_statistics(logits)
    assert rows.statistics is not None
    rows.statistics[2, column] = wrong
    found = compared(logits, rows)
    assert (found.mean, found.max, found.regret) == (0, 0, 0)
    assert found.worst_statistic is not None
    assert found.worst_statistic.name == column.name.lower()
    for limits in (*BY_DTYPE.values(), QUANTIZED):
        assert f"{column.name.lower()} mean" in limits.exceeded(found)
        assert f"{column.name.lower()} max" in limits.exceeded(found)


def test_a_confidence_of_one_candidate_too_few_fails_in_float32() -> None:
    logits = np.random.default_rng(0).normal(0, 3, (4, 50)).astype(np.float32)
    narrow = statistics_torch(torch.tensor(logits), [TOP_K - 1] * 4).numpy()
    found = compared(logits, rows_with_statistics(logits, narrow))
    assert BY_DTYPE["float32"].exceeded(found).startswith("confidence mean")
