"""Where an answer ends, against a look at the whole of it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from conf_server.stats.confidence import sliding_mean
from conf_server.stats.early_stop import ConfidenceWindow, EarlyStop, early_stop

CONFIDENCES = st.lists(
    st.floats(0, 40, width=32) | st.sampled_from([math.nan, math.inf, 2.0, 2.5]), max_size=60
)


def ended(rule: EarlyStop, confidences: list[float]) -> int | None:
    """How many tokens an answer gets that would have these; None where it is not ended."""
    window = ConfidenceWindow(rule)
    for number, confidence in enumerate(confidences, 1):
        if window.push(confidence):
            return number
    return None


def looked_up(rule: EarlyStop, confidences: list[float]) -> int | None:
    """The same, window by window, each added up by itself."""
    for number in range(1, len(confidences) + 1):
        finite = [value for value in confidences[:number] if math.isfinite(value)]
        last = finite[-rule.window :]
        is_full = len(last) == rule.window and number >= rule.min_tokens
        if is_full and math.fsum(last) / rule.window < rule.below:
            return number
    return None


@given(CONFIDENCES, st.integers(1, 12), st.integers(0, 20), st.floats(0, 40) | st.just(2.0))
@example([2.0] * 30, 10, 0, 2.0)
@example([0.1] * 30, 10, 0, 0.1)
def test_it_ends_with_the_first_full_window_below(
    confidences: list[float], window: int, more: int, below: float
) -> None:
    rule = EarlyStop(below, window, window + more)
    assert ended(rule, confidences) == looked_up(rule, confidences)


def test_a_long_answer_is_added_up_as_exactly_as_a_short_one() -> None:
    draw = np.random.default_rng(0).gamma(2, 6, 20_000).astype(np.float32)
    lowest = float(sliding_mean(draw, 2048)[2047:].min())
    for below, ends in ((lowest - 1e-9, False), (lowest + 1e-9, True)):
        assert (ended(EarlyStop(below, 2048, 2048), draw.tolist()) is not None) is ends


def test_what_is_told_of_it() -> None:
    rule = EarlyStop(3.0, 2, 2)
    confidences = [9.0, 4.0, math.nan, 1.0]
    assert ended(rule, confidences) == 4
    told = early_stop(rule, confidences)
    assert told == {"token": 4, "value": 2.5, "below": 3.0, "window": 2}
    assert told["value"] == pytest.approx(np.mean([4.0, 1.0]))
