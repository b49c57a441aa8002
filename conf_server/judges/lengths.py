"""How much of a text a model reads, and a batch of no more than that."""

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


def encode(tokenizer: Any, limit: int, *texts: Sequence[str]) -> tuple[Any, bool]:
    """A padded batch of tensors, and whether the model reads all of it: the rest is cut off.

    Args:
        limit: `max_tokens`.
        texts: of one list or two, premises and hypotheses.
    """
    lists = [list(part) for part in texts]
    batch = tokenizer(*lists, padding=True, truncation=True, max_length=limit, return_tensors="pt")
    whole = batch["input_ids"].shape[1] < limit or _longest(tokenizer, lists) <= limit
    return batch, whole


def _longest(tokenizer: Any, texts: Sequence[Sequence[str]]) -> int:
    return max(map(len, tokenizer(*texts, verbose=False)["input_ids"]))
