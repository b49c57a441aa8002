"""Hidden states and attention weights against the reference's: distances, limits, the table."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from conf_server.check.inner_compare import (
    InnerLine,
    InnerTolerance,
    inner_tolerance,
    largest_state_distance,
    largest_weight_difference,
)
from conf_server.check.result import Line
from tests.unit.check.rows import difference, result_of

LINE = InnerLine("prose", "cached", 7, 0.01, 15, 0.02, 3)
LIMITS = InnerTolerance(0.1, 0.1)


def test_the_largest_distance_is_relative_to_the_tokens_own_state() -> None:
    reference = np.ones((2, 3, 4), np.float32)
    reference[1] *= 100
    engine = reference.copy()
    engine[0, 2, 1] += 1  # of a state of length 2
    engine[1, 0, 0] += 20  # of one of length 200
    assert largest_state_distance(engine, reference) == (pytest.approx(0.5), 0)


def test_weights_are_compared_as_they_are() -> None:
    reference = np.full((2, 3, 4, 2), 0.25, np.float32)
    engine = reference.copy()
    engine[1, 2, 3, 1] = 0.125
    assert largest_weight_difference(engine, reference) == (0.125, 1)


def test_what_is_no_number_is_infinitely_far_off() -> None:
    reference = np.ones((2, 1, 3), np.float32)
    engine = reference.copy()
    engine[1, 0, 0] = np.nan
    assert largest_state_distance(engine, reference) == (math.inf, 1)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (LINE, None),
        (replace(LINE, states=0.2), "hidden states of layer 15 0.2 > 0.1"),
        (replace(LINE, weights=0.3), "attention of layer 3 0.3 > 0.1"),
        (replace(LINE, weights=None, weights_layer=None), None),
        (replace(LINE, states=math.nan), "hidden states of layer 15 nan > 0.1"),
    ],
)
def test_the_verdict_names_the_layer(line: InnerLine, message: str | None) -> None:
    right = Line("prose", "prompt", difference())
    found = replace(result_of(right), inner=[line], inner_tolerance=LIMITS)
    assert found.failures() == ([f"prose/cached: {message}"] if message else [])
    assert found.ok is (message is None)


def test_the_table_and_the_json_have_them() -> None:
    found = replace(result_of(Line("prose", "prompt", difference())), inner=[LINE])
    assert "prose  cached       7       0.010000   0.020000  15, 3" in found.table()
    (line,) = json.loads(json.dumps(found.as_json()))["inner"]
    assert (line["rows"], line["states"], line["weights_layer"]) == ("cached", 0.01, 3)


def test_narrow_limits_are_for_float32_alone() -> None:
    limits = [inner_tolerance(dtype, None) for dtype in ("float32", "float16", "bfloat16")]
    assert [one.states for one in limits] == sorted(one.states for one in limits)
    assert inner_tolerance("float8", None) == limits[-1]
    assert inner_tolerance("float32", "awq").states > limits[-1].states
