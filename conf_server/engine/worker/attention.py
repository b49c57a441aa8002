"""Attention weights of forced texts, recomputed in the worker from queries and cached keys.

The engine's attention kernels never hold a matrix of weights. But a step that needs some can ask
for them: while it runs, an attention layer's implementation is one that looks at the queries after
its work is done. Keys of the text's earlier positions are read from vLLM's paged cache. With
lse(p) the logsumexp of the logits of position p over all positions that it sees, the weight on
position k is exp(logit(p, k) - lse(p)). Logits exist for a few rows and keys at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn
from vllm.model_executor.layers.attention import Attention
from vllm.v1.attention.backend import AttentionType

from conf_server.engine.adoption import adopt
from conf_server.engine.marks import AttentionMark
from conf_server.engine.worker.key_cache import KeyCache, KeyCacheError

_FLOAT_BYTES: Final = 4

Take = Callable[[Tensor, Tensor], None]
"""Called with a step's queries and keys, (tokens, heads, head size) each."""


class AttentionError(ValueError):
    """A layer's attention weights cannot be recomputed."""


class WatchedAttention:
    """Mixed in before the class of an attention implementation, which then lets others look on."""

    take: Take

    def forward(self, layer: Any, query: Tensor, key: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        implementation: Any = super()
        output: Tensor = implementation.forward(layer, query, key, *args, **kwargs)
        self.take(query, key)
        return output


@dataclass(frozen=True)
class Rows:
    """The positions of a forced text that a step computes and whose weights are wanted.

    Attributes:
        begin, end: the positions. All keys before `end` are in the cache.
        is_last: the text ends at `end`.
        blocks: (n,) int64 on the cache's device, the text's blocks from the first on.
    """

    begin: int
    end: int
    is_last: bool
    blocks: Tensor


class TextKeys:
    """The keys of a forced text in one layer, from its first position to the step's last."""

    def __init__(self, cache: KeyCache, rows: Rows, at_once: int) -> None:
        """
        Args:
            at_once: most keys that are read from the cache in one go.
        """
        self._cache = cache
        self._rows = rows
        # Those of most texts are few, and are wanted more than once.
        self._whole = cache.read(rows.blocks, 0, rows.end) if rows.end <= at_once else None

    def read(self, low: int, high: int) -> Tensor:
        """(high - low, KV heads, head size), of the positions low..high-1, in the cache's dtype."""
        if self._whole is not None:
            return self._whole[low:high]
        return self._cache.read(self._rows.blocks, low, high)

    def hold(self, start: int, key: Tensor) -> bool:
        """Whether these are, from `start` on, what the layer has just computed.

        Args:
            key: (end - start, KV heads x head size), of a step's positions.
        """
        read = self.read(start, self._rows.end)
        return torch.equal(read, key.reshape(read.shape).to(read.dtype))


@dataclass(frozen=True)
class Weights:
    """Weights of m rows in one layer, float32 on the CPU.

    Attributes:
        near: (m, heads, history), what each row pays to itself, to the one before, ...
        mass: (m, heads), what each row pays to the context; None if nobody wants it.
        last: (heads, n), what the text's last row pays to chosen positions; None before that
            row, and if nobody wants it.
    """

    near: Tensor
    mass: Tensor | None
    last: Tensor | None


class LayerAttention:
    """The softmax attention of one decoder layer.

    Attributes:
        name: of the layer in vLLM's groups of caches.
        num_heads: of queries, in this worker.
        block_size: positions of a block of its cache.
    """

    def __init__(self, layer: nn.Module, max_bytes: int) -> None:
        """
        Args:
            layer: a decoder layer; no request may be running.
            max_bytes: of logits and of keys in float32 that exist at a time.

        Raises:
            AttentionError: the layer's weights are not those of the formula above, or its keys
                cannot be read.
        """
        attention = _only_attention(layer)
        try:
            self._keys = KeyCache(attention)
        except KeyCacheError as error:
            raise AttentionError(str(error)) from error
        self.name: str = attention.layer_name
        self.num_heads: int = attention.num_heads
        self.block_size = self._keys.block_size
        self._attention = attention
        self._stock: Any = attention.impl
        self._watched: Any = adopt(WatchedAttention, self._stock)
        self._groups = attention.num_heads // self._keys.num_heads
        self._head_size: int = attention.head_size
        self._window: int | None = attention.sliding_window
        self._softcap = float(getattr(self._stock, "logits_soft_cap", None) or 0)
        self._max_bytes = max_bytes

    def watch(self, take: Take) -> Callable[[], None]:
        """Have `take` called whenever the layer runs, until the returned function is called."""
        self._watched.take = take
        self._attention.impl = self._watched

        def stop() -> None:
            self._attention.impl = self._stock

        return stop

    def keys(self, rows: Rows) -> TextKeys:
        """The keys of a text, once the layer has run."""
        keys_at_once, _ = self._sizes()
        return TextKeys(self._keys, rows, keys_at_once)

    def weights(self, mark: AttentionMark, rows: Rows, keys: TextKeys, query: Tensor) -> Weights:
        """
        Args:
            query: (m, heads x head size), of the positions begin..end-1.
        """
        shape = (len(query), self._keys.num_heads, self._groups, self._head_size)
        grouped = query.reshape(shape).transpose(0, 1).float()
        lse, mass = self._sums(mark.context or 0, rows, keys, grouped)
        near = self._near(mark.history, rows, keys, grouped, lse)
        last = None
        if rows.is_last and mark.last_on is not None:
            own = grouped[:, -1:], lse[:, -1:]
            last = self._on(mark.last_on, rows, keys, *own).flatten(0, 2).cpu()
        return Weights(
            near.transpose(0, 1).flatten(1, 2).cpu(),
            (mass - lse).exp().transpose(0, 1).flatten(1).cpu()
            if mark.context is not None
            else None,
            last,
        )

    # Below, K is the number of KV heads, g that of query heads which share one, d the head size.

    def _sums(
        self, context: int, rows: Rows, keys: TextKeys, query: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Logsumexps of the logits: over all that a row sees, and over the context alone.

        Args:
            query: (K, m, g, d).

        Returns:
            (K, m, g) twice.
        """
        lse, mass = (query.new_full(query.shape[:3], -torch.inf) for _ in range(2))
        keys_at_once, rows_at_once = self._sizes()
        for low in range(self._first_seen(rows.begin), rows.end, keys_at_once):
            high = min(low + keys_at_once, rows.end)
            seen = keys.read(low, high).float()
            for first in range(max(0, low - rows.begin), query.shape[1], rows_at_once):
                part = slice(first, first + rows_at_once)
                logits = self._logits(query[:, part], seen)
                position = rows.begin + first + torch.arange(logits.shape[1], device=query.device)
                # Without a window every row sees all that is before the first one.
                known = low if self._window else min(max(low, rows.begin + first), high)
                hidden = self._hidden(position, known, high)
                logits[..., known - low :].masked_fill_(hidden, -torch.inf)
                # In place, and one exponential for both sums.
                top = logits.amax(-1, keepdim=True).clamp_(min=torch.finfo(logits.dtype).min)
                terms, top = logits.sub_(top).exp_(), top[..., 0]
                lse[:, part] = torch.logaddexp(lse[:, part], terms.sum(-1).log() + top)
                if low < context:
                    within = terms[..., : context - low].sum(-1).log() + top
                    mass[:, part] = torch.logaddexp(mass[:, part], within)
        sinks = getattr(self._stock, "sinks", None)
        if sinks is not None:
            lse = torch.logaddexp(lse, sinks.float().view(query.shape[0], 1, -1))
        return lse, mass

    def _near(self, history: int, rows: Rows, keys: TextKeys, query: Tensor, lse: Tensor) -> Tensor:
        """(K, m, g, history): what each row pays to itself, to the one before, ..."""
        count = query.shape[1]
        near = query.new_zeros((*query.shape[:3], history))
        _, rows_at_once = self._sizes()
        for first in range(0, count if history else 0, rows_at_once):
            end = min(first + rows_at_once, count)
            low = max(0, rows.begin + first - history + 1)
            seen = keys.read(low, rows.begin + end).float()
            position = torch.arange(rows.begin + first, rows.begin + end, device=query.device)
            for back in range(history if self._window is None else min(history, self._window)):
                chosen = seen[(position - back - low).clamp(min=0)]
                logits = self._capped(torch.einsum("kmgd,mkd->kmg", query[:, first:end], chosen))
                weights = (logits - lse[:, first:end]).exp()
                near[:, first:end, :, back] = torch.where((position >= back)[:, None], weights, 0)
        return near

    def _on(
        self, chosen: tuple[int, int], rows: Rows, keys: TextKeys, query: Tensor, lse: Tensor
    ) -> Tensor:
        """(K, 1, g, n): what the last row pays to n positions; `query` and `lse` are its own."""
        keys_at_once, _ = self._sizes()
        position = torch.tensor([rows.end - 1], device=query.device)
        parts = []
        for low in range(*chosen, keys_at_once):
            high = min(low + keys_at_once, chosen[1])
            logits = self._logits(query, keys.read(low, high).float())
            weights = (logits - lse[..., None]).exp()
            parts.append(weights.masked_fill(self._hidden(position, low, high), 0))
        return torch.cat(parts, -1)

    def _logits(self, query: Tensor, keys: Tensor) -> Tensor:
        """(K, m, g, n) of queries (K, m, g, d) and keys (n, K, d)."""
        return self._capped(torch.einsum("kmgd,nkd->kmgn", query, keys))

    def _capped(self, products: Tensor) -> Tensor:
        logits = products * self._stock.scale
        if self._softcap:
            logits = self._softcap * torch.tanh(logits / self._softcap)
        return logits

    def _hidden(self, position: Tensor, low: int, high: int) -> Tensor:
        """(m, 1, n): which of the positions low..high-1 the rows (m,) do not see."""
        column = torch.arange(low, high, device=position.device)
        row = position[:, None, None]
        hidden = column > row
        return hidden if self._window is None else hidden | (column <= row - self._window)

    def _first_seen(self, position: int) -> int:
        return 0 if self._window is None else max(0, position - self._window + 1)

    def _sizes(self) -> tuple[int, int]:
        """How many keys, and how many rows of logits on so many keys, exist at a time.

        A quarter of the memory is for keys in the cache's layout and again in order, a quarter for
        logits, and the rest for what torch makes on the way.
        """
        quarter = self._max_bytes // 4
        key_bytes = 2 * _FLOAT_BYTES * self._keys.num_heads * self._head_size
        row_bytes = _FLOAT_BYTES * self.num_heads
        keys = max(1, min(quarter // key_bytes, quarter // row_bytes))
        return keys, max(1, quarter // (row_bytes * keys))


def _only_attention(layer: nn.Module) -> Any:
    """The layer's attention, whose weights the formula gives.

    Raises:
        AttentionError: saying why they are not.
    """
    found = [part for part in layer.modules() if isinstance(part, Attention)]
    if len(found) != 1:
        raise AttentionError(f"{type(layer).__name__} has {len(found)} softmax attentions")
    (attention,) = found
    kind = type(attention).__name__
    if type(attention) is not Attention or attention.attn_type != AttentionType.DECODER:
        raise AttentionError(f"{kind} is not plain causal attention")
    if getattr(attention.impl, "alibi_slopes", None) is not None:
        raise AttentionError("the model uses ALiBi")
    if attention.kv_sharing_target_layer_name is not None:
        raise AttentionError("the layer uses the keys of another one")
    return attention
