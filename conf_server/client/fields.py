"""What the arguments of calls may be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

Prompt = str | Sequence[int]
"""A text, or its token ids."""

Completion = str | Sequence[int] | Mapping[str, Any]
"""A text, its token ids, or an object of `text` or `token_ids` and `finished`."""

Messages = Sequence[Mapping[str, Any]]
"""A chat as OpenAI's API has it."""

BATCH_SIZE: Final = 64
"""Texts in one request, unless a call says otherwise."""
