"""What a trace's token confidences say of it."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from conf_server.stats.early_stop import ConfidenceWindow, EarlyStop
from conf_server.thinking.trace_scores import TraceScores, trace_scores

FINITE = st.floats(0, 40) | st.floats(0, 40, width=32) | st.sampled_from([0.0, 0.1, 2.0, 2.5])
CONFIDENCES = st.lists(FINITE | st.sampled_from([math.nan, math.inf]), max_size=60)


def test_a_trace_by_hand() -> None:
    found = trace_scores([4.0, 2.0, math.nan, 6.0, 8.0], window=2, tail=3)
    assert found == TraceScores(
        num_tokens=5,
        mean_conf=5.0,
        tail_conf=16 / 3,
        bottom_window_conf=3.0,
        min_conf=3.0,
    )


def test_the_tail_is_as_long_as_a_window_unless_it_is_told() -> None:
    assert trace_scores([4.0, 2.0, 6.0], window=2).tail_conf == 4.0


def test_the_lowest_tenth_is_rounded_down() -> None:
    """Of 29 full windows two are the lowest tenth, of 19 one."""
    falling = np.arange(30.0, 0.0, -1.0)
    assert trace_scores(falling, window=2).bottom_window_conf == (1.5 + 2.5) / 2
    assert trace_scores(falling[-20:], window=2).bottom_window_conf == 1.5


def test_a_trace_shorter_than_a_window_is_one_window() -> None:
    found = trace_scores([1.0, 3.0], window=3)
    assert found == TraceScores(2, 2.0, 2.0, 2.0, 2.0)


@pytest.mark.parametrize("confidence", [[], [math.nan, math.inf]])
def test_nothing_is_said_of_a_trace_without_a_confidence(confidence: list[float]) -> None:
    assert trace_scores(confidence) == TraceScores(len(confidence), None, None, None, None)


def test_certainty_is_a_mean_too() -> None:
    assert trace_scores([], [1.0, math.nan, 2.0]).certainty == 1.5
    assert trace_scores([], [math.nan]).certainty is None


@pytest.mark.parametrize(
    ("confidence", "certainty", "sizes", "told"),
    [
        ([1.0], None, {"window": 0}, "at least 1"),
        ([1.0], None, {"tail": 0}, "at least 1"),
        ([1.0], [-2.0], {}, "never negative"),
    ],
)
def test_what_cannot_be_meant(
    confidence: list[float], certainty: list[float] | None, sizes: dict[str, int], told: str
) -> None:
    with pytest.raises(ValueError, match=told):
        trace_scores(confidence, certainty, **sizes)


def test_a_score_is_finite_or_none() -> None:
    with pytest.raises(ValueError, match="tail_conf must be finite"):
        TraceScores(1, 1.0, math.nan, 1.0, 1.0)


def is_ended(rule: EarlyStop, confidence: list[float]) -> bool:
    window = ConfidenceWindow(rule)
    return any(window.push(value) for value in confidence)


@given(CONFIDENCES, st.integers(1, 12), FINITE)
@example([0.1] * 30, 10, 0.1)
@example([2.0] * 30, 10, 2.0)
def test_it_agrees_with_the_early_stop(confidence: list[float], window: int, below: float) -> None:
    lowest = trace_scores(confidence, window=window).min_conf
    has_full_window = np.isfinite(confidence).sum() >= window
    bars = {below} if lowest is None else {below, lowest, math.nextafter(lowest, math.inf)}
    for bar in bars:
        ended = is_ended(EarlyStop(bar, window, window), confidence)
        assert ended == (has_full_window and lowest is not None and lowest < bar)


@given(st.lists(FINITE, min_size=1, max_size=60), st.integers(1, 12))
def test_it_equals_a_slow_look_at_every_window(confidence: list[float], window: int) -> None:
    exact = [Fraction(value) for value in confidence]
    size = min(window, len(exact))
    means = sorted(
        sum(exact[i : i + size], Fraction()) / size for i in range(len(exact) - size + 1)
    )
    lowest = means[: max(1, math.floor(0.1 * len(means)))]
    found = trace_scores(confidence, window=window)
    assert found.min_conf == pytest.approx(float(means[0]), rel=1e-15, abs=0)
    assert found.bottom_window_conf == pytest.approx(float(sum(lowest)) / len(lowest), abs=1e-12)
    assert found.min_conf is not None
    assert found.bottom_window_conf is not None
    assert found.min_conf <= found.bottom_window_conf


def test_windows_are_told_apart_that_a_running_sum_cannot() -> None:
    """Nats of 100,000 tokens are added up to 1e-10, and each of these windows is 1e-12 lower."""
    step = 2.0**-40
    rng = np.random.default_rng(0)
    confidence = [40.1] * 100_000
    for number in range(50):
        three = (2 + rng.integers(2**39, size=3) * step).tolist()
        confidence += [40.1] * 4 + [*three, 8 - number * step - math.fsum(three)]
    lowest = trace_scores(confidence, window=4).min_conf
    assert lowest == (8 - 49 * step) / 4
    assert is_ended(EarlyStop(2.0, 4, 4), confidence)
