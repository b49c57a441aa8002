"""How evidence is come by."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

Way = Callable[[], Coroutine[Any, Any, Any]]
"""How to come by what meets a need."""


class UnmetError(Exception):
    """A need that this answer or these samples cannot meet. The message says why."""
