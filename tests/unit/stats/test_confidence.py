"""Token confidence and its summary, against the definitions written out slowly."""

import json
import math
from collections.abc import Sequence
from fractions import Fraction
from statistics import fmean

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conf_server.stats.confidence import (
    bottom_mean,
    confidence_summary,
    sliding_mean,
    token_confidence,
    with_sampled_token,
)

# Confidences are a few nats; 1e3 is far outside, and tests cancellation in running sums.
NATS = st.floats(-1e3, 1e3)
ANY = NATS | st.sampled_from([math.nan, math.inf, -math.inf])
WINDOWS = st.integers(1, 50)


def slow_sliding_mean(values: Sequence[float], window: int) -> list[float]:
    return [fmean(values[max(0, t - window + 1) : t + 1]) for t in range(len(values))]


def slow_bottom_mean(values: Sequence[float], fraction: str) -> float:
    return fmean(sorted(values)[: math.ceil(Fraction(fraction) * len(values))])


def slow_summary(confidence: Sequence[float], window: int) -> dict[str, float]:
    x = [c for c in confidence if math.isfinite(c)]
    sliding = slow_sliding_mean(x, window)
    return {
        "mean_confidence": fmean(x),
        f"tail_{window}_mean_conf": fmean(x[-window:]),
        f"min_sliding_{window}_mean_conf": min(sliding),
        f"bottom_0.1_sliding_{window}_mean_conf": slow_bottom_mean(sliding, "0.1"),
        f"bottom_0.5_sliding_{window}_mean_conf": slow_bottom_mean(sliding, "0.5"),
    }


def close(expected: object) -> object:
    return pytest.approx(expected, rel=1e-12, abs=1e-9)


def keys(window: int) -> list[str]:
    return [
        "mean_confidence",
        f"tail_{window}_mean_conf",
        f"min_sliding_{window}_mean_conf",
        f"bottom_0.1_sliding_{window}_mean_conf",
        f"bottom_0.5_sliding_{window}_mean_conf",
    ]


@given(
    rows=st.integers(1, 6).flatmap(
        lambda w: st.lists(st.lists(st.floats(-100, 0, width=32), min_size=w, max_size=w))
    ),
    data=st.data(),
)
def test_token_confidence_is_minus_the_mean_of_the_first_k(
    rows: list[list[float]], data: st.DataObject
) -> None:
    width = len(rows[0]) if rows else 1
    k = data.draw(st.integers(1, width))
    got = token_confidence(np.array(rows, np.float32).reshape(len(rows), width), k)
    assert got.dtype == np.float64
    assert got.tolist() == pytest.approx([-fmean(row[:k]) for row in rows], rel=1e-14)


def test_token_confidence_by_hand() -> None:
    rows: list[list[float]] = [[-1, -2, -6], [0, -0.5, -math.inf]]
    assert token_confidence(rows, 2).tolist() == [1.5, 0.25]
    assert token_confidence(rows, 3).tolist() == [3.0, math.inf]


@pytest.mark.parametrize("k", [-1, 0, 4])
def test_a_row_without_k_candidates_has_no_confidence(k: int) -> None:
    with pytest.raises(ValueError, match="k must"):
        token_confidence([[-1.0, -2.0, -3.0]], k)


def test_token_confidence_wants_one_row_a_token() -> None:
    with pytest.raises(ValueError, match="two dimensions"):
        token_confidence([-1.0, -2.0], 1)


@given(st.lists(NATS, max_size=120), WINDOWS)
def test_sliding_mean(values: list[float], window: int) -> None:
    assert sliding_mean(values, window).tolist() == close(slow_sliding_mean(values, window))


@pytest.mark.parametrize("window", [0, -3])
def test_sliding_mean_refuses_an_empty_window(window: int) -> None:
    with pytest.raises(ValueError, match="window"):
        sliding_mean([1.0], window)


@given(st.lists(NATS, min_size=1, max_size=120), st.sampled_from(["0.1", "0.3", "0.5", "1"]))
def test_bottom_mean(values: list[float], fraction: str) -> None:
    exact = Fraction(fraction)
    got = bottom_mean(values, exact.numerator, exact.denominator)
    assert got == close(slow_bottom_mean(values, fraction))


@pytest.mark.parametrize(
    ("fraction", "n", "count"),
    [
        *(("1/10", n, c) for n, c in [(1, 1), (10, 1), (11, 2), (20, 2), (30, 3), (31, 4)]),
        *(("1/2", n, c) for n, c in [(1, 1), (2, 1), (3, 2), (30, 15)]),
        ("7/100", 100, 7),  # 0.07 * 100 is 7.000000000000001
    ],
)
def test_the_lowest_are_counted_exactly(fraction: str, n: int, count: int) -> None:
    assert bottom_mean(range(n), *Fraction(fraction).as_integer_ratio()) == fmean(range(count))


@given(st.lists(ANY, max_size=120), WINDOWS)
def test_summary(confidence: list[float], window: int) -> None:
    got = confidence_summary(confidence, window)
    assert list(got) == keys(window)
    json.dumps(got, allow_nan=False)
    if any(map(math.isfinite, confidence)):
        assert got == close(slow_summary(confidence, window))
    else:
        assert set(got.values()) == {None}


@pytest.mark.parametrize("window", [1, 2, 7, 2048])
@pytest.mark.parametrize("offset", [-1, 0, 1])
def test_summary_of_traces_about_as_long_as_the_window(window: int, offset: int) -> None:
    confidence = [float(7 * t % 11) for t in range(max(1, window + offset))]
    assert confidence_summary(confidence, window) == close(slow_summary(confidence, window))


def test_summary_by_hand() -> None:
    nan, inf = math.nan, math.inf
    confidence = [8, nan, 2, 4, 4, 6, inf, 0, 2, 6, 6, -inf, 8, 9, nan]
    # Without the four: 8 2 4 4 6 0 2 6 6 8 9; their means of two: 8 5 3 4 5 3 1 4 6 7 8.5
    assert confidence_summary(confidence, window=2) == {
        "mean_confidence": 5.0,
        "tail_2_mean_conf": 8.5,
        "min_sliding_2_mean_conf": 1.0,
        "bottom_0.1_sliding_2_mean_conf": 2.0,  # 1 3
        "bottom_0.5_sliding_2_mean_conf": pytest.approx(20 / 6),  # 1 3 3 4 4 5
    }


def test_the_default_window_is_2048() -> None:
    assert list(confidence_summary([1.0])) == [
        "mean_confidence",
        "tail_2048_mean_conf",
        "min_sliding_2048_mean_conf",
        "bottom_0.1_sliding_2048_mean_conf",
        "bottom_0.5_sliding_2048_mean_conf",
    ]


@pytest.mark.parametrize("confidence", [[], [math.nan], [math.nan, math.inf, -math.inf]])
def test_no_token_with_a_confidence_no_number(confidence: list[float]) -> None:
    got = confidence_summary(confidence)
    assert list(got.items()) == [(key, None) for key in keys(2048)]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_ten_thousand_tokens_lose_no_digits(dtype: type[np.floating]) -> None:
    confidence = np.random.default_rng(0).gamma(2.0, 8.0, 10_000).astype(dtype)
    expected = slow_summary(confidence.tolist(), 2048)
    assert confidence_summary(confidence) == pytest.approx(expected, rel=1e-12)


def test_the_sampled_token_counts_beside_the_likeliest() -> None:
    """And twice where it is one of them: the mean of a flat row of vLLM's, which it begins."""
    top = np.log([[0.5, 0.2, 0.1], [0.5, 0.2, 0.1]])
    sampled = np.array([top[0, 1], math.log(0.01)])
    flat = np.column_stack([sampled, top])
    found = with_sampled_token(token_confidence(top, 3), sampled, 3)
    assert found.tolist() == close((-flat.mean(axis=1)).tolist())


def test_a_sampled_token_without_a_probability_has_no_confidence() -> None:
    found = with_sampled_token([1.0, math.nan, 2.0], [-math.inf, -1.0, -2.0], 4)
    assert np.isfinite(found).tolist() == [False, False, True]
