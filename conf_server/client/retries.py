"""How often a request is sent again while the server is away or busy, and after what time."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

from conf_server.client.server_error import UnavailableError

FIRST_DELAY_S: Final = 0.5
LONGEST_DELAY_S: Final = 30.0
"""Delays double from the first to the longest; each is multiplied by a random 1 to 1.5."""

LONGEST_ASKED_S: Final = 300.0
"""The longest delay that a server's `Retry-After` can ask for."""

OnRetry = Callable[[UnavailableError], object]
"""Is told why a request will be sent again."""


class Retries:
    """Counts the tries of one request."""

    def __init__(self, most: int, on_retry: OnRetry | None) -> None:
        """
        Args:
            most: how often the request may be sent again.
        """
        self._most = most
        self._on_retry = on_retry
        self._attempts = 0

    def delay_after(self, error: UnavailableError) -> float:
        """Seconds to wait before the next try.

        Raises:
            UnavailableError: the same, where there is no next try.
        """
        self._attempts += 1
        error.attempts = self._attempts
        if self._attempts > self._most:
            raise error
        if self._on_retry is not None:
            self._on_retry(error)
        return retry_delay(self._attempts - 1, error.retry_after, datetime.now(UTC))


def retry_delay(attempt: int, retry_after: str | None, now: datetime) -> float:
    """Seconds to wait before the next try: our own delay, or the server's where that is longer.

    Args:
        attempt: how many tries went before the one that has failed.
        retry_after: the server's header (RFC 9110, 10.2.3), seconds or a date. Any other text
            asks for nothing.
    """
    ours = min(FIRST_DELAY_S * 2.0 ** min(attempt, 30), LONGEST_DELAY_S) * random.uniform(1, 1.5)
    return max(ours, min(_asked_s(retry_after or "", now), LONGEST_ASKED_S))


def _asked_s(retry_after: str, now: datetime) -> float:
    if retry_after.isascii() and retry_after.isdecimal():
        return float(retry_after)
    try:
        date = parsedate_to_datetime(retry_after)
    except (ValueError, OverflowError):
        return 0.0
    return (date.replace(tzinfo=date.tzinfo or UTC) - now).total_seconds()
