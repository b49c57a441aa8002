"""Server-sent events, as vLLM writes them."""

from __future__ import annotations

import json
from typing import Any


def event(body: Any) -> str:
    """An event whose data is `body` as JSON, without blanks, as vLLM's own events are."""
    return f"data: {json.dumps(body, ensure_ascii=False, separators=(',', ':'))}\n\n"
