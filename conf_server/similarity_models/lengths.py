"""How much of a text a model reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

_UNLIMITED: Final = 10**6
_RESERVED_POSITIONS: Final = 2
"""RoBERTa's and its children's: positions begin after the padding's."""


def max_tokens(tokenizer: Any, config: Any) -> int:
    """Tokens of the longest input: the tokenizer's own limit, or what the positions allow.

    A tokenizer without a limit says 10**30, with which a long text would leave the model's
    table of positions.

    Raises:
        ValueError: neither says.
    """
    limit = int(tokenizer.model_max_length)
    if limit < _UNLIMITED:
        return limit
    positions = getattr(config, "max_position_embeddings", None)
    if not positions:
        raise ValueError("neither its tokenizer nor its config says how long a text may be")
    return int(positions) - _RESERVED_POSITIONS


def longest(tokenizer: Any, *texts: Sequence[str]) -> int:
    """Tokens of the longest input: texts, or premises and hypotheses."""
    ids = tokenizer(*map(list, texts), verbose=False)["input_ids"]
    return max(map(len, ids), default=0)
