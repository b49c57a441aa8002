"""Ending the prefix-cache hits of forced texts where what is wanted of them begins.

The engine has no rows and no hidden states of tokens that it does not compute.
"""

from __future__ import annotations

from typing import Any, Final

from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorBase_V1
from vllm.v1.core.kv_cache_manager import KVCacheManager

from conf_server.engine.marks import longest_hit


class CappedKVCacheManager(KVCacheManager):
    """A cache manager in which a forced text finds at most what `longest_hit` allows."""

    def get_computed_blocks(self, request: Any, max_cache_hit_length: int | None = None) -> Any:
        return super().get_computed_blocks(*_capped(request, max_cache_hit_length))

    def get_computed_blocks_for_connector(
        self, request: Any, max_cache_hit_length: int | None = None
    ) -> Any:
        return super().get_computed_blocks_for_connector(*_capped(request, max_cache_hit_length))


def _capped(request: Any, max_cache_hit_length: int | None) -> list[Any]:
    """The arguments of a cache lookup. For a forced text they are those of its beginning."""
    limits = [] if max_cache_hit_length is None else [max_cache_hit_length]  # from 0.33
    longest = longest_hit(request.sampling_params)
    if longest is not None and longest < request.num_tokens - 1:
        request = _ShortRequest(request, longest + 1)
        limits = [min(limit, longest) for limit in limits]
    return [request, *limits]


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
        longest = longest_hit(request.sampling_params)
        if longest is not None and found and num_computed_tokens + found > longest:
            return 0, False
        return found, is_async
