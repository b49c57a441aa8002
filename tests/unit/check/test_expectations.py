"""Readings that have to be there, and those that need not."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from conf_server.check.expectations import Missing, cache_excuse, expected_kinds, missing_readings
from conf_server.check.result import Line
from tests.unit.check.rows import (
    difference,
    result_of,
)


def test_a_text_shorter_than_a_block_has_no_cached_rows() -> None:
    assert expected_kinds(1, 16) == ("generated", "batched")
    assert expected_kinds(17, 16) == ("prompt", "generated", "batched")
    assert expected_kinds(18, 16) == ("prompt", "cached", "generated", "batched")


def test_what_is_expected_and_not_found_fails() -> None:
    found = {("long", kind) for kind in ("prompt", "generated", "batched")}
    absent = missing_readings({"long": [1] * 40}, 16, "", found)
    assert absent == [Missing("long", "cached")]
    failed = result_of(Line("long", "prompt", difference()), missing=tuple(absent))
    message = "long/cached: missing, nothing came from the prefix cache"
    assert (failed.ok, failed.failures()) == (False, [message])
    assert failed.as_json()["missing"] == [{"text": "long", "rows": "cached", "excuse": None}]
    (line,) = (line for line in failed.table().splitlines() if line.startswith("long  cached"))
    assert line.split(maxsplit=3)[2:] == ["0", "missing, nothing came from the prefix cache"]


def test_no_excuse_covers_rows_that_need_no_cache() -> None:
    absent = missing_readings({"long": [1] * 40}, 16, "prefix caching is off", set())
    assert [one.kind for one in absent if not one.excuse] == ["prompt", "generated", "batched"]


def test_what_could_not_be_expected_is_said_and_does_not_fail() -> None:
    texts = {"long": [1] * 40, "longer": [1] * 50, "short": [1]}
    kinds = ("prompt", "generated", "batched")
    found = {(name, kind) for name in texts for kind in kinds}
    absent = missing_readings(texts, 16, "prefix caching is off", found)
    passed = result_of(Line("long", "prompt", difference()), missing=tuple(absent))
    assert passed.ok
    assert "Not compared: long/cached, longer/cached: prefix caching is off." in passed.table()
    assert [one["excuse"] for one in passed.as_json()["missing"]] == ["prefix caching is off"] * 2


@pytest.mark.parametrize(
    ("flags", "excuse"),
    [
        ({}, ""),
        ({"enable_prefix_caching": False}, "prefix caching is off"),
        ({"data_parallel_size": 2}, "different data-parallel engines"),
        ({"decode_context_parallel_size": 2}, "context parallelism"),
        ({"is_hybrid": True}, "layers with a state"),
        ({"speculative_config": object()}, "speculative decoding"),
    ],
)
def test_when_nothing_need_come_from_the_prefix_cache(flags: dict[str, Any], excuse: str) -> None:
    options = SimpleNamespace(
        enable_prefix_caching=True, data_parallel_size=1, decode_context_parallel_size=1
    )
    options.speculative_config, options.is_hybrid = None, False
    vars(options).update(flags)
    config = SimpleNamespace(cache_config=options, parallel_config=options, model_config=options)
    config.speculative_config = options.speculative_config
    assert excuse in cache_excuse(config)
    assert bool(cache_excuse(config)) is bool(excuse)
