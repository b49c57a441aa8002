"""Ending the prefix-cache hits of scored texts where the completion begins.

The engine has no rows for tokens that it does not compute, so the completion must be computed.
"""

from __future__ import annotations

from typing import Any, Final

from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorBase_V1
from vllm.v1.core.kv_cache_manager import KVCacheManager

from conf_server.engine.marks import PromptMark, prompt_mark


class CappedKVCacheManager(KVCacheManager):
    """A cache manager in which a scored text finds at most its context."""

    def get_computed_blocks(self, request: Any, max_cache_hit_length: int | None = None) -> Any:
        return super().get_computed_blocks(*_capped(request, max_cache_hit_length))

    def get_computed_blocks_for_connector(
        self, request: Any, max_cache_hit_length: int | None = None
    ) -> Any:
        return super().get_computed_blocks_for_connector(*_capped(request, max_cache_hit_length))


def _capped(request: Any, max_cache_hit_length: int | None) -> list[Any]:
    """The arguments of a cache lookup. For a scored text they are those of its context."""
    limits = [] if max_cache_hit_length is None else [max_cache_hit_length]  # from 0.33
    if mark := prompt_mark(request.sampling_params):
        request = _ShortRequest(request, mark.first)
        limits = [min(limit, _longest_hit(mark)) for limit in limits]
    return [request, *limits]


def _longest_hit(mark: PromptMark) -> int:
    """How many tokens may come from a cache.

    A token's row is computed at the position before it, which must not come from the cache.
    """
    return mark.first - 1


class _ShortRequest:
    """A view of a request which says that the request has `num_tokens` tokens.

    vLLM never takes a request's last token from the cache, so that a hit is shorter than
    `num_tokens`.
    """

    def __init__(self, request: Any, num_tokens: int) -> None:
        self._request = request
        self.num_tokens: Final = num_tokens

    def __getattr__(self, name: str) -> Any:
        return getattr(self._request, name)


class CappedConnector(KVConnectorBase_V1):
    """A KV connector that never loads the scored tokens of a text.

    A connector loads all that it has found or nothing, so what it has found cannot be cut. If
    it would run into the scored tokens, nothing is loaded, as in vLLM for requests with
    `skip_reading_prefix_cache`. A hit in the engine's own cache is still used.
    """

    def get_num_new_matched_tokens(self, request: Any, num_computed_tokens: int) -> Any:
        stock: Any = super()
        found, is_async = stock.get_num_new_matched_tokens(request, num_computed_tokens)
        mark = prompt_mark(request.sampling_params)
        if mark and found and num_computed_tokens + found > _longest_hit(mark):
            return 0, False
        return found, is_async
