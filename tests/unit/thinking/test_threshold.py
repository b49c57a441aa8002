"""From which confidence on a trace may vote."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conf_server.thinking.threshold import threshold

MIN_CONFS = st.lists(st.floats(0, 40), min_size=1, max_size=20)


def test_it_lies_between_two_traces() -> None:
    """Of 16 traces the 90th percentile is at 13.5 of 15."""
    assert threshold([float(i) for i in range(16)], 0.1) == 13.5
    assert threshold([float(i) for i in range(16)], 0.9) == 1.5


@pytest.mark.parametrize("percent", range(1, 101))
def test_a_share_in_percent_is_deepconf_s_percentile(percent: int) -> None:
    """Where 1 - keep_top in floats would be beside it: 1 - 0.9 is 0.09999999999999998."""
    draw = np.random.default_rng(percent).gamma(4, 3, 16)
    assert threshold(draw.tolist(), percent / 100) == np.percentile(draw, 100 - percent)


@given(MIN_CONFS)
def test_all_are_sure_enough_where_all_are_kept(min_confs: list[float]) -> None:
    assert threshold(min_confs, 1) == min(min_confs)


@given(MIN_CONFS, st.floats(0, 1, exclude_min=True))
def test_the_surest_is_sure_enough(min_confs: list[float], keep_top: float) -> None:
    assert min(min_confs) <= threshold(min_confs, keep_top) <= max(min_confs)


@pytest.mark.parametrize(
    ("min_confs", "keep_top", "told"),
    [
        ([], 0.1, "at least one trace"),
        ([1.0], 0, "keep_top"),
        ([1.0], 1.1, "keep_top"),
        ([1.0], math.nan, "keep_top"),
        ([1.0, math.nan], 0.1, "finite"),
    ],
)
def test_what_is_refused(min_confs: list[float], keep_top: float, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        threshold(min_confs, keep_top)
