"""Attention weights from cached keys, against a softmax over all of them at once."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from vllm.model_executor.layers.attention import Attention
from vllm.v1.attention.backend import AttentionType

from conf_server.engine.marks import AttentionMark
from conf_server.engine.worker.attention import AttentionError, LayerAttention, Rows

HEADS, KV_HEADS, SIZE = 6, 2, 8
BLOCK, BLOCKS = 4, 40
LENGTH = 61
BLOCK_IDS = torch.randperm(BLOCKS - 3, generator=torch.Generator().manual_seed(1))[:16] + 3
PLENTY = 2**24

CACHES: dict[str, tuple[int, ...]] = {
    "key beside value": (BLOCKS, KV_HEADS, BLOCK, 2 * SIZE),
    "keys before values": (BLOCKS, KV_HEADS, BLOCK, 2 * SIZE),
    "columns": (BLOCKS, KV_HEADS, BLOCK, 2 * SIZE),
    "blocks of keys and values": (BLOCKS, 2, BLOCK, KV_HEADS, SIZE),
    "keys and values of blocks": (2, BLOCKS, BLOCK, KV_HEADS, SIZE),
}


def write(layout: str, cache: Tensor, block: int, place: int, key: Tensor) -> None:
    """Write one position's keys (KV heads, size) as a backend with this layout does."""
    halves = cache[block].view(KV_HEADS, 2, BLOCK * SIZE) if cache.dim() == 4 else cache
    match layout:
        case "key beside value":
            cache[block, :, place, :SIZE] = key
        case "keys before values":
            halves[:, 0].view(KV_HEADS, BLOCK, SIZE)[:, place] = key
        case "columns":
            halves[:, 0].view(KV_HEADS, SIZE, BLOCK)[:, :, place] = key
        case "blocks of keys and values":
            cache[block, 0, place] = key
        case "keys and values of blocks":
            cache[0, block, place] = key
        case "scrambled":
            cache[block, :, place, :SIZE] = key.flip(-1)


class Backend:
    """What stands in for an attention backend's implementation."""

    scale = 0.3
    logits_soft_cap: float | None = None
    sinks: Tensor | None = None
    alibi_slopes: Tensor | None = None

    def __init__(self, layout: str) -> None:
        self.layout = layout

    def do_kv_cache_update(
        self, layer: Any, key: Tensor, value: Tensor, cache: Tensor, slots: Tensor
    ) -> None:
        for slot, one in zip(slots.tolist(), key, strict=True):
            write(self.layout, cache, slot // BLOCK, slot % BLOCK, one)

    def forward(self, layer: Any, query: Tensor, key: Tensor, *rest: Any) -> Tensor:
        return query


def decoder_layer(layout: str = "key beside value", **attributes: Any) -> nn.Module:
    """A decoder layer with vLLM's attention, but for the computing."""
    attention = Attention.__new__(Attention)
    nn.Module.__init__(attention)
    impl = Backend(layout)
    for name in ("logits_soft_cap", "sinks", "alibi_slopes"):
        setattr(impl, name, attributes.pop(name, None))
    cache = torch.zeros(CACHES.get(layout, CACHES["key beside value"]))
    facts = {
        "layer_name": "attention.0",
        "num_heads": HEADS,
        "num_kv_heads": KV_HEADS,
        "head_size": SIZE,
        "sliding_window": None,
        "attn_type": AttentionType.DECODER,
        "kv_sharing_target_layer_name": None,
        "attn_backend": SimpleNamespace(get_name=lambda: "STUB"),
        "impl": impl,
        "kv_cache": cache,
    }
    for name, fact in (facts | attributes).items():
        setattr(attention, name, fact)
    return nn.ModuleDict({"attention": attention})


def filled(layer: nn.Module) -> Tensor:
    """Fill the cache with the text's keys: (LENGTH, KV heads, size)."""
    attention: Any = layer["attention"]  # type: ignore[index]
    keys = torch.randn((LENGTH, KV_HEADS, SIZE), generator=torch.Generator().manual_seed(2))
    slots = torch.tensor([BLOCK_IDS[p // BLOCK] * BLOCK + p % BLOCK for p in range(LENGTH)])
    attention.impl.do_kv_cache_update(attention, keys, keys, attention.kv_cache, slots)
    return keys


def dense(layer: nn.Module, query: Tensor, keys: Tensor, begin: int) -> Tensor:
    """(m, heads, LENGTH) weights in float64, of the positions begin, begin + 1, ..."""
    attention: Any = layer["attention"]  # type: ignore[index]
    logits = torch.einsum(
        "mhd,nhd->mhn", query.double(), keys.double().repeat_interleave(HEADS // KV_HEADS, 1)
    )
    logits *= attention.impl.scale
    if cap := attention.impl.logits_soft_cap:
        logits = cap * torch.tanh(logits / cap)
    row = begin + torch.arange(len(query))[:, None]
    column = torch.arange(LENGTH)
    seen = column <= row
    if attention.sliding_window is not None:
        seen &= column > row - attention.sliding_window
    logits = logits.masked_fill(~seen[:, None], -torch.inf)
    if attention.impl.sinks is not None:
        sinks = attention.impl.sinks.double()[None, :, None].expand(len(query), -1, 1)
        return torch.cat((logits, sinks), -1).softmax(-1)[..., :-1]
    return logits.softmax(-1)


class LargestTensor(TorchDispatchMode):
    """Notes how many bytes the largest tensor holds that is made meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None):  # type: ignore[no-untyped-def]
        result = function(*args, **(kwargs or {}))
        for one in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(one, Tensor):
                self.bytes = max(self.bytes, one.numel() * one.element_size())
        return result


def assert_right(layer: nn.Module, begin: int, max_bytes: int = PLENTY) -> None:
    """History, context mass and the last row of the positions from `begin` on."""
    attention = LayerAttention(layer, max_bytes)
    keys = filled(layer)
    draw = torch.Generator().manual_seed(3)
    query = torch.randn((LENGTH - begin, HEADS, SIZE), generator=draw) * 2
    mark = AttentionMark((0,), history=3, context=20, last_on=(5, 33))
    rows_of_text = Rows(begin, LENGTH, True, BLOCK_IDS)
    found = attention.weights(mark, rows_of_text, attention.keys(rows_of_text), query.flatten(1))
    expected = dense(layer, query, keys, begin)
    rows = torch.arange(len(query))
    for back in range(3):
        position = begin + rows - back
        right = expected[rows, :, position.clamp(min=0)] * (position >= 0)[:, None]
        torch.testing.assert_close(found.near[..., back].double(), right, atol=1e-5, rtol=0)
    assert found.mass is not None
    assert found.last is not None
    mass = expected[..., :20].sum(-1)
    torch.testing.assert_close(found.mass.double(), mass, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.last.double(), expected[-1, :, 5:33], atol=1e-5, rtol=0)


@pytest.mark.parametrize("layout", CACHES)
@pytest.mark.parametrize("begin", [0, 37, LENGTH - 1])
def test_weights_are_a_softmax_whatever_the_layout(layout: str, begin: int) -> None:
    assert_right(decoder_layer(layout), begin)


@pytest.mark.parametrize("max_bytes", [1, 2000, 9000])
def test_a_few_keys_and_rows_at_a_time_give_the_same(max_bytes: int) -> None:
    assert_right(decoder_layer(), 10, max_bytes)


@pytest.mark.parametrize(
    "attributes",
    [
        {"sliding_window": 2},
        {"sliding_window": 19},
        {"logits_soft_cap": 1.5},
        {"sinks": torch.linspace(-1, 3, HEADS)},
    ],
)
@pytest.mark.parametrize("max_bytes", [2000, PLENTY])
def test_windows_caps_and_sinks(attributes: dict[str, Any], max_bytes: int) -> None:
    for begin in (0, 30):
        assert_right(decoder_layer(**attributes), begin, max_bytes)


def test_no_tensor_is_larger_than_what_is_allowed() -> None:
    layer = decoder_layer()
    attention, rows = LayerAttention(layer, 16_000), Rows(0, LENGTH, True, BLOCK_IDS)
    filled(layer)
    query = torch.randn(LENGTH, HEADS * SIZE)
    mark = AttentionMark((0,), history=0, context=20, last_on=(0, LENGTH))
    with LargestTensor() as largest:
        attention.weights(mark, rows, attention.keys(rows), query)
    own = query.numel() * query.element_size()
    assert largest.bytes <= max(16_000 // 2, own)


def test_the_cache_is_left_as_it_was() -> None:
    layer = decoder_layer("columns")
    filled(layer)
    attention: Any = layer["attention"]  # type: ignore[index]
    before = attention.kv_cache.clone()
    LayerAttention(layer, PLENTY)
    assert torch.equal(attention.kv_cache, before)


def test_keys_are_compared_with_those_just_computed() -> None:
    layer = decoder_layer()
    attention, keys = LayerAttention(layer, PLENTY), filled(layer)
    read = attention.keys(Rows(50, LENGTH, True, BLOCK_IDS))
    assert read.hold(40, keys[40:])
    assert not read.hold(40, keys[40:] + 1)


def test_queries_are_looked_at_only_while_somebody_watches() -> None:
    layer = decoder_layer()
    attention: Any = layer["attention"]  # type: ignore[index]
    stock, seen = attention.impl, []
    stop = LayerAttention(layer, PLENTY).watch(lambda query, key: seen.append((query, key)))
    assert attention.impl.forward(attention, 1, 2, 3, 4) == 1
    assert seen == [(1, 2)]
    stop()
    assert attention.impl is stock
    attention.impl.forward(attention, 1, 2, 3, 4)
    assert len(seen) == 1


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (decoder_layer("scrambled"), "STUB packs its keys in a way that is not known"),
        (decoder_layer(alibi_slopes=torch.ones(HEADS)), "the model uses ALiBi"),
        (
            decoder_layer(kv_sharing_target_layer_name="attention.1"),
            "the layer uses the keys of another one",
        ),
        (
            decoder_layer(kv_cache=torch.zeros(CACHES["key beside value"], dtype=torch.uint8)),
            "the cache is quantized",
        ),
        (
            decoder_layer(kv_cache=torch.zeros(BLOCKS, BLOCK, SIZE)),
            "the cache of STUB has the unknown shape \\(40, 4, 8\\)",
        ),
        (decoder_layer(impl=SimpleNamespace()), "STUB does not write its cache by itself"),
        (nn.ModuleDict(), "ModuleDict has 0 softmax attentions"),
    ],
)
def test_what_cannot_be_recomputed_is_refused(layer: nn.Module, reason: str) -> None:
    with pytest.raises(AttentionError, match=reason):
        LayerAttention(layer, PLENTY)
