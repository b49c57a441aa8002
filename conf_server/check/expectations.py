"""Which readings a check must have. Without them it would pass and prove nothing."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Missing:
    """A reading that the engine was asked for and that has no rows.

    Attributes:
        text: the text's name.
        kind: the kind of rows.
        excuse: why none could be expected; empty where the check fails for the lack of them.
    """

    text: str
    kind: str
    excuse: str = ""

    @property
    def reason(self) -> str:
        """What the table says in place of numbers."""
        if self.excuse:
            return self.excuse
        cached = self.kind == "cached"
        return "missing, nothing came from the prefix cache" if cached else "missing"


def expected_kinds(num_tokens: int, block_size: int) -> tuple[str, ...]:
    """The kinds of rows that an engine with a prefix cache must give for a text.

    Args:
        num_tokens: the text's length. Every row needs a token before its own. A cached one needs
            a whole block in the cache, and the token that it is computed from.
        block_size: how many tokens a block of the prefix cache holds.
    """
    prompt = ("prompt",) if num_tokens >= 2 else ()
    cached = ("cached",) if num_tokens >= block_size + 2 else ()
    return (*prompt, *cached, "generated", "batched")


def cache_excuse(config: Any) -> str:
    """Why an engine may compute again what it has computed before; empty where it may not.

    Args:
        config: the engine's `VllmConfig`.
    """
    if not config.cache_config.enable_prefix_caching:
        return "prefix caching is off"
    if config.parallel_config.data_parallel_size > 1:
        return "a text and its beginning may meet different data-parallel engines"
    if config.parallel_config.decode_context_parallel_size > 1:
        return "context parallelism caches larger blocks"
    if config.model_config.is_hybrid:
        return "layers with a state cache larger blocks"
    if config.speculative_config is not None:
        return "speculative decoding may give up a hit's last block"
    return ""


def missing_readings(
    texts: Mapping[str, list[int]],
    block_size: int,
    excuse: str,
    found: Collection[tuple[str, str]],
) -> list[Missing]:
    """The readings that are expected and were not found, text by text.

    Args:
        texts: the token ids of each text, by its name.
        block_size: how many tokens a block of the prefix cache holds.
        excuse: what `cache_excuse` says, for the `cached` readings.
        found: text and kind of every reading that was compared.
    """
    return [
        Missing(name, kind, excuse if kind == "cached" else "")
        for name, ids in texts.items()
        for kind in expected_kinds(len(ids), block_size)
        if (name, kind) not in found
    ]
