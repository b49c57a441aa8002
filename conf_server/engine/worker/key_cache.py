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

Layout = Callable[[Tensor, int, int], Tensor]
"""(blocks of a layer's cache, block size, head size) -> (positions, KV heads, head size)."""

_CHECKED_BLOCKS: Final = (2, 1)
"""Block 0 is vLLM's null block. Nothing is in the others before the first request."""


def _key_beside_value(blocks: Tensor, _block_size: int, head_size: int) -> Tensor:
    """(blocks, KV heads, block size, 2 x head size): each position holds its key and its value."""
    return blocks[..., :head_size].permute(0, 2, 1, 3).flatten(0, 1)


def _keys_before_values(blocks: Tensor, block_size: int, head_size: int) -> Tensor:
    """The same shape, but each head's block holds all its keys first, position by position."""
    keys = blocks.flatten(2).unflatten(2, (2, block_size, head_size))[:, :, 0]
    return keys.permute(0, 2, 1, 3).flatten(0, 1)


def _columns_of_keys(blocks: Tensor, block_size: int, head_size: int) -> Tensor:
    """The same, but the keys of a block are the columns of a matrix: vLLM's CPU kernels."""
    keys = blocks.flatten(2).unflatten(2, (2, head_size, block_size))[:, :, 0]
    return keys.permute(0, 3, 1, 2).flatten(0, 1)


def _keys_and_values_apart(blocks: Tensor, _block_size: int, _head_size: int) -> Tensor:
    """(blocks, 2, block size, KV heads, head size)."""
    return blocks[:, 0].flatten(0, 1)


_LAYOUTS: Final[dict[int, tuple[Layout, ...]]] = {
    4: (_key_beside_value, _columns_of_keys, _keys_before_values),
    5: (_keys_and_values_apart,),
}
"""By the cache's number of dimensions."""


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
        cache = attention.kv_cache
        self._cache: Tensor = cache[0] if isinstance(cache, (list, tuple)) else cache
        self._head_size: int = attention.head_size
        self.num_heads: int = attention.num_kv_heads
        self._backend = attention.attn_backend.get_name()
        self.block_size = self._found_block_size()
        self._layout = self._found_layout(attention)

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
        keys = self._blocks(blocks[begin : -(-last // size)], self._layout)
        return keys[first - begin * size : last - begin * size]

    def _blocks(self, blocks: Tensor, layout: Layout) -> Tensor:
        # Of the older shape (2, blocks, ...) blocks are the second dimension.
        chosen = self._cache[blocks] if self._axis == 0 else self._cache[:, blocks].transpose(0, 1)
        return layout(chosen, self.block_size, self._head_size)

    @property
    def _axis(self) -> int:
        """The cache's dimension that counts blocks."""
        shape = self._cache.shape
        return 1 if len(shape) == 5 and shape[0] == 2 and shape[1] != 2 else 0

    def _found_block_size(self) -> int:
        shape = tuple(self._cache.shape)
        beside = len(shape) == 4 and (shape[1], shape[3]) == (self.num_heads, 2 * self._head_size)
        apart = len(shape) == 5 and shape[3:] == (self.num_heads, self._head_size)
        if not beside and not apart:
            raise KeyCacheError(f"the cache of {self._backend} has the unknown shape {shape}")
        if shape[self._axis] <= max(_CHECKED_BLOCKS):
            raise KeyCacheError(f"the cache has only {shape[self._axis]} blocks")
        return shape[2]

    def _found_layout(self, attention: Any) -> Layout:
        """The layout that reads back keys which the backend has written."""
        cache, size = self._cache, self.block_size
        if not hasattr(attention.impl, "do_kv_cache_update"):
            raise KeyCacheError(f"{self._backend} does not write its cache by itself")
        if not cache.is_floating_point() or cache.dtype.itemsize < 2:
            raise KeyCacheError("the cache is quantized")
        draw = torch.Generator().manual_seed(0)
        shape = (len(_CHECKED_BLOCKS) * size, self.num_heads, self._head_size)
        key, value = (torch.randn(shape, generator=draw).to(cache) for _ in range(2))
        blocks = torch.tensor(_CHECKED_BLOCKS, device=cache.device)
        slots = (blocks[:, None] * size + torch.arange(size, device=cache.device)).flatten()
        before = cache.index_select(self._axis, blocks)
        attention.impl.do_kv_cache_update(attention, key, value, cache, slots)
        try:
            for layout in _LAYOUTS[cache.dim()]:
                if torch.equal(self._blocks(blocks, layout), key):
                    return layout
        finally:
            cache.index_copy_(self._axis, blocks, before)
        raise KeyCacheError(f"{self._backend} packs its keys in a way that is not known")
