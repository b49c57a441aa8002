"""Where prefix-cache hits of forced texts end.

The engine has no rows for what it does not compute, so that a hit has to end where the
completion begins.
"""

from __future__ import annotations

from typing import Any, Final

from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorBase_V1
from vllm.v1.core.kv_cache_manager import KVCacheManager

from conf_server.engine.marks import PromptMark, prompt_mark


class CappedKVCacheManager(KVCacheManager):
    """Ends the prefix-cache hits of forced texts before their first scored token."""

    def get_computed_blocks(self, request: Any, max_cache_hit_length: int | None = None) -> Any:
        return super().get_computed_blocks(*_capped(request, max_cache_hit_length))

    def get_computed_blocks_for_connector(
        self, request: Any, max_cache_hit_length: int | None = None
    ) -> Any:
        return super().get_computed_blocks_for_connector(*_capped(request, max_cache_hit_length))


def _capped(request: Any, max_cache_hit_length: int | None) -> list[Any]:
    """The arguments of a cache lookup, for a forced text those of its context alone."""
    limits = [] if max_cache_hit_length is None else [max_cache_hit_length]  # from 0.33
    if mark := prompt_mark(request.sampling_params):
        request = _ShortRequest(request, mark.first)
        limits = [min(limit, _longest_hit(mark)) for limit in limits]
    return [request, *limits]


def _longest_hit(mark: PromptMark) -> int:
    """Tokens that may be cached: the first row is computed at the position before its token."""
    return mark.first - 1


class _ShortRequest:
    """A request as if it had so many tokens only. A hit spares a request's last one."""

    def __init__(self, request: Any, num_tokens: int) -> None:
        self._request = request
        self.num_tokens: Final = num_tokens

    def __getattr__(self, name: str) -> Any:
        return getattr(self._request, name)


class CappedConnector(KVConnectorBase_V1):
    """A KV connector that loads no forced text's scored tokens.

    What it has found cannot be cut: connectors count on loading all of it or nothing.
    Nothing is what vLLM itself asks of them for `skip_reading_prefix_cache`. The hit in
    the engine's own cache stays.
    """

    def get_num_new_matched_tokens(self, request: Any, num_computed_tokens: int) -> Any:
        stock: Any = super()
        found, is_async = stock.get_num_new_matched_tokens(request, num_computed_tokens)
        mark = prompt_mark(request.sampling_params)
        if mark and found and num_computed_tokens + found > _longest_hit(mark):
            return 0, False
        return found, is_async
