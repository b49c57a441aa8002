"""Where an answer ends, against a look at the whole of it."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from conf_server.stats.confidence import sliding_mean
from conf_server.stats.early_stop import ConfidenceWindow, EarlyStop, ThinkingTokens, early_stop
from tests.slow_early_stop import looked_up

THINKING = ThinkingTokens(start=(1,), end=(2, 3), forced=(7, 2, 3))

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
    assert told == {"token": 4, "value": 2.5, "below": 3.0, "window": 2, "action": "stop"}
    assert told["value"] == pytest.approx(np.mean([4.0, 1.0]))
    assert early_stop(replace(rule, thinking=THINKING), confidences)["action"] == "end_thinking"


@pytest.mark.parametrize(
    ("ids", "has_ended"),
    [([], False), ([1], False), ([1, 8], False), ([1, 8, 2, 3], True), ([1, 2, 3, 7, 1], False)],
)
def test_whether_a_thinking_has_ended(ids: list[int], has_ended: bool) -> None:
    assert THINKING.have_ended(ids) is has_ended


@pytest.mark.parametrize(
    ("ids", "new", "ends"),
    [
        ([2, 3], 1, True),
        ([2, 3], 2, True),
        ([2, 3, 9], 1, False),
        ([2, 3, 9], 2, True),
        ([3], 1, 0),
    ],
)
def test_whether_it_ends_with_the_new_tokens(ids: list[int], new: int, ends: bool) -> None:
    assert THINKING.end_with(ids, new) == ends
