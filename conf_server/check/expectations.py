"""Which readings a check has to have: one that is missing proves nothing, and says so."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Missing:
    """A reading that the engine was asked for, and that no row came of.

    Attributes:
        text: the text's name.
        kind: the kind of rows.
        excuse: why it could not be expected after all; empty where it fails the check.
    """

    text: str
    kind: str
    excuse: str = ""

    @property
    def reason(self) -> str:
        if self.excuse:
            return self.excuse
        cached = self.kind == "cached"
        return "missing, nothing came from the prefix cache" if cached else "missing"


def expected_kinds(num_tokens: int, block_size: int) -> tuple[str, ...]:
    """What an engine with a prefix cache has to give for a text.

    Args:
        num_tokens: of the text. A row needs a token before its own; a cached one needs a
            whole block, and the token that it is computed from.
        block_size: tokens in a block of the prefix cache.
    """
    prompt = ("prompt",) if num_tokens >= 2 else ()
    cached = ("cached",) if num_tokens >= block_size + 2 else ()
    return (*prompt, *cached, "generated", "batched")


def cache_excuse(config: Any) -> str:
    """Why an engine may compute anew what it has computed before; empty where it may not.

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
    """By text, what is expected of it and not found.

    Args:
        texts: token ids, by name.
        excuse: of the `cached` ones, from `cache_excuse`.
        found: (text, kind) of every reading that was compared.
    """
    return [
        Missing(name, kind, excuse if kind == "cached" else "")
        for name, ids in texts.items()
        for kind in expected_kinds(len(ids), block_size)
        if (name, kind) not in found
    ]
