"""Sequence statistics against their formulas, token by token."""

import math
from collections.abc import Callable, Sequence
from statistics import fmean

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conf_server.stats import sequence

try:
    from scipy.stats import entropy as reference_entropy
except ImportError:

    def reference_entropy(pk: Sequence[float]) -> float:
        return -sum(p * math.log(p) for p in pk if p)


LOGPROBS = st.lists(st.floats(-50, 0) | st.just(math.nan), max_size=60).filter(
    lambda values: not all(map(math.isnan, values))
)

REFERENCE: dict[str, Callable[[list[float]], float]] = {
    "sum_logprob": math.fsum,
    "mean_logprob": fmean,
    "perplexity": lambda x: math.prod(math.exp(-v / len(x)) for v in x),
}
each_statistic = pytest.mark.parametrize("name", REFERENCE)


@each_statistic
@given(values=LOGPROBS)
def test_statistics_leave_out_tokens_without_a_value(name: str, values: list[float]) -> None:
    expected = REFERENCE[name]([v for v in values if not math.isnan(v)])
    assert getattr(sequence, name)(values) == pytest.approx(expected, rel=1e-9, abs=1e-12)


@each_statistic
@pytest.mark.parametrize("values", [[], [math.nan], [math.nan, math.nan]])
def test_no_token_no_value(name: str, values: list[float]) -> None:
    assert getattr(sequence, name)(values) is None


def test_statistics_by_hand() -> None:
    halves = [math.nan, math.log(1 / 2), math.log(1 / 8)]
    assert sequence.sum_logprob(halves) == pytest.approx(math.log(1 / 16))
    assert sequence.mean_logprob(halves) == pytest.approx(math.log(1 / 4))
    assert sequence.perplexity(halves) == pytest.approx(4)


def test_an_impossible_token_makes_the_sequence_impossible() -> None:
    values = [-1.0, -math.inf]
    assert sequence.sum_logprob(values) == -math.inf
    assert sequence.perplexity(values) == math.inf


def test_float32_rows_are_summed_in_float64() -> None:
    values = np.full(10_000, -0.1, np.float32)
    assert sequence.sum_logprob(values) == pytest.approx(math.fsum(values.tolist()), rel=1e-12)


@given(st.lists(st.floats(-20, 20), min_size=1, max_size=30))
def test_top_k_entropy_of_every_candidate_is_the_entropy(logits: list[float]) -> None:
    logits.sort(reverse=True)
    total = math.fsum(map(math.exp, logits))
    logprobs = [logit - math.log(total) for logit in logits]
    (got,) = sequence.top_k_entropy([logprobs], len(logprobs))
    assert got == pytest.approx(reference_entropy([math.exp(p) for p in logprobs]), abs=1e-9)


def test_top_k_entropy_stops_at_k() -> None:
    p = [0.5, 0.25, 0.125, 0.125]
    rows = np.log([p, p])
    for k in range(1, 5):
        expected = -sum(x * math.log(x) for x in p[:k])
        assert sequence.top_k_entropy(rows, k).tolist() == pytest.approx([expected] * 2)


@pytest.mark.filterwarnings("error")
def test_probability_zero_adds_nothing_and_nan_stays() -> None:
    half = math.log(0.5)
    rows = [[half, half, -math.inf], [half, half, math.nan], [0.0, -math.inf, -math.inf]]
    got = sequence.top_k_entropy(rows, 3)
    assert got.tolist() == pytest.approx([math.log(2), math.nan, 0.0], nan_ok=True)
