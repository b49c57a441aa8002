"""Bodies that cannot travel to the engine, and what looking at them costs."""

from __future__ import annotations

import tracemalloc
from typing import Any

import pytest

from conf_server.backends.encodable import refuse_unencodable
from conf_server.refusal import RefusalError

HALF = "\ud800"
MB = 1 << 20


def deep(levels: int) -> Any:
    value: Any = HALF
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("value", "path"),
    [
        (HALF, "field"),
        (["a", {"b": [HALF]}], "field.1.b.0"),
        ({"a": [[], 1], "b": HALF}, "field.b"),
        ([{"a": 1}, {HALF: 1}], "field.1"),
        (2**64, "field"),
        ({"seed": [-(2**63) - 1]}, "field.seed.0"),
        (deep(3), "field.0.0.0"),
    ],
)
def test_the_part_that_cannot_be_encoded_is_named(value: Any, path: str) -> None:
    with pytest.raises(RefusalError) as refused:
        refuse_unencodable(value, "field")
    assert refused.value.field == path


@pytest.mark.parametrize("value", ["€", [2**64 - 1, -(2**63), 0.5, None, True], {"a": {"b": []}}])
def test_what_can_be_encoded_passes(value: Any) -> None:
    refuse_unencodable(value, "field")


def test_numbers_in_a_schema_may_have_any_size() -> None:
    schema = {"type": "json_schema", "json_schema": {"schema": {"maximum": 10**30}}}
    refuse_unencodable(schema, "response_format")
    with pytest.raises(RefusalError):
        refuse_unencodable([schema, HALF], "response_format")


@pytest.mark.parametrize(
    "value",
    [
        {"a" * (MB // 2): [0] * (MB // 4)},  # a long name over many values
        [*([[]] * (MB // 4)), HALF],
    ],
)
def test_a_large_body_takes_no_more_memory_than_itself(value: Any) -> None:
    tracemalloc.start()
    try:
        refuse_unencodable(value, "field")
    except RefusalError:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 4 * MB
