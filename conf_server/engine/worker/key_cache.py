"""Reading the keys of attention back from vLLM's paged cache.

Each attention backend lays its cache out in its own way, and says so nowhere. Here are the layouts
that are known. Which of them a layer has is found out by writing keys into its cache with the
backend's own code, before the first request, and by looking for the layout that reads them back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor

_CHECKED_BLOCKS: Final = (2, 1)
"""Block 0 is vLLM's null block."""

Layout = Callable[[Tensor], Tensor]
"""A layer's cache -> a view of its keys: (blocks, block size, KV heads, head size)."""


def _beside_values(cache: Tensor) -> Tensor:
    """Of (blocks, KV heads, block size, 2 x head size): each position has its key and its value."""
    return cache[..., : cache.shape[3] // 2].permute(0, 2, 1, 3)


def _before_values(cache: Tensor) -> Tensor:
    """The same shape, but each head's block holds all its keys first, position by position."""
    blocks, heads, size, both = cache.shape
    return cache.view(blocks, heads, 2, size, both // 2)[:, :, 0].permute(0, 2, 1, 3)


def _columns_before_values(cache: Tensor) -> Tensor:
    """The same, but the keys of a block are the columns of a matrix: vLLM's CPU kernels."""
    blocks, heads, size, both = cache.shape
    return cache.view(blocks, heads, 2, both // 2, size)[:, :, 0].permute(0, 3, 1, 2)


_OF_BOTH: Final[tuple[Layout, ...]] = (_beside_values, _columns_before_values, _before_values)


class KeyCacheError(ValueError):
    """A layer's keys cannot be read back."""


class KeyCache:
    """The keys of one attention layer, by block.

    Attributes:
        block_size: positions of a block.
        num_heads: of keys; each serves as many heads of queries.
    """

    def __init__(self, attention: Any) -> None:
        """
        Args:
            attention: vLLM's layer. No request may be running.

        Raises:
            KeyCacheError: no layout reads back what the backend has written.
        """
        self._attention = attention
        self._head_size: int = attention.head_size
        self.num_heads: int = attention.num_kv_heads
        self._backend = attention.attn_backend.get_name()
        cache = self._cache
        # A cache (2, blocks, ...) or (blocks, 2, ...) keeps keys and values apart.
        self._axis = 1 if cache.dim() == 5 and cache.shape[0] == 2 and cache.shape[1] != 2 else 0
        self.block_size = self._found_block_size(tuple(cache.shape))
        self._layout = self._found_layout(cache)

    def read(self, blocks: Tensor, first: int, last: int) -> Tensor:
        """Keys of a request's positions.

        Args:
            blocks: (n,) int64 on the cache's device, the request's blocks from its first on.
            first, last: the positions first..last-1, 0 <= first < last <= n x block size.

        Returns:
            (last - first, KV heads, head size), in the cache's dtype.
        """
        size = self.block_size
        begin = first // size
        keys = self._layout(self._cache)[blocks[begin : -(-last // size)]].flatten(0, 1)
        return keys[first - begin * size : last - begin * size]

    @property
    def _cache(self) -> Tensor:
        cache = self._attention.kv_cache
        tensor: Tensor = cache[0] if isinstance(cache, (list, tuple)) else cache
        return tensor

    def _found_block_size(self, shape: tuple[int, ...]) -> int:
        beside = len(shape) == 4 and (shape[1], shape[3]) == (self.num_heads, 2 * self._head_size)
        apart = len(shape) == 5 and shape[3:] == (self.num_heads, self._head_size)
        if not beside and not apart:
            raise KeyCacheError(f"the cache of {self._backend} has the unknown shape {shape}")
        if shape[self._axis] <= max(_CHECKED_BLOCKS):
            raise KeyCacheError(f"the cache has only {shape[self._axis]} blocks")
        return shape[2]

    def _layouts(self, cache: Tensor) -> tuple[Layout, ...]:
        """Those that a cache of this shape may have."""
        if cache.dim() == 4:
            return _OF_BOTH if cache.is_contiguous() else (_beside_values,)
        axis = 1 - self._axis
        return (lambda cache: cache.select(axis, 0),)

    def _found_layout(self, cache: Tensor) -> Layout:
        """The layout that reads back keys which the backend has written."""
        impl = self._attention.impl
        if not hasattr(impl, "do_kv_cache_update"):
            raise KeyCacheError(f"{self._backend} does not write its cache by itself")
        if not cache.is_floating_point() or cache.dtype.itemsize < 2:
            raise KeyCacheError("the cache is quantized")
        size = self.block_size
        draw = torch.Generator().manual_seed(0)
        shape = (len(_CHECKED_BLOCKS) * size, self.num_heads, self._head_size)
        key, value = (torch.randn(shape, generator=draw).to(cache) for _ in range(2))
        blocks = torch.tensor(_CHECKED_BLOCKS, device=cache.device)
        slots = (blocks[:, None] * size + torch.arange(size, device=cache.device)).flatten()
        before = cache.index_select(self._axis, blocks)
        impl.do_kv_cache_update(self._attention, key, value, cache, slots)
        try:
            for layout in self._layouts(cache):
                if torch.equal(layout(cache)[blocks].flatten(0, 1), key):
                    return layout
        finally:
            cache.index_copy_(self._axis, blocks, before)
        raise KeyCacheError(f"{self._backend} packs its keys in a way that is not known")
