"""How long a client waits before it sends a request again."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conf_server.client.retries import LONGEST_ASKED_S, LONGEST_DELAY_S, retry_delay

NOW = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)


@given(st.integers(0, 10**6))
def test_delays_grow_to_a_bound(attempt: int) -> None:
    low = min(0.5 * 2.0 ** min(attempt, 9), LONGEST_DELAY_S)
    assert low <= retry_delay(attempt, None, NOW) <= 1.5 * low


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("120", 120),
        (format_datetime(NOW.replace(minute=2), usegmt=True), 120),
        ("Thu, 01 Jan 2026 12:02:00 -0000", 120),
        ("3600", LONGEST_ASKED_S),
        ("9" * 5000, LONGEST_ASKED_S),
        (format_datetime(NOW.replace(year=2030), usegmt=True), LONGEST_ASKED_S),
    ],
)
def test_the_server_is_heard(header: str, expected: float) -> None:
    assert retry_delay(0, header, NOW) == expected


NO_DELAYS = ["0", "-5", "1.5", "soon", format_datetime(NOW), f"1 Jan {'9' * 20} 0:0:0 GMT"]


@given(st.text() | st.sampled_from(NO_DELAYS))
def test_no_header_makes_us_faster(header: str) -> None:
    assert 0.5 <= retry_delay(0, header, NOW) <= LONGEST_ASKED_S
