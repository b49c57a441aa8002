"""Hidden states and attention weights of small random models against transformers, on V1.

Families differ in what they do within a layer: windows, soft caps, norms of queries and keys,
experts, learned positions, one key head for several query heads.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from numpy.typing import NDArray

from conf_server.engine.client.state_forcing import force_states
from conf_server.engine.states_support import StatesSupport, install_hidden_states
from conf_server.stats.forced import ForcedStates, ForcedText, WantedAttention, WantedStates
from tests.engine.small_engine import BLOCK, small_engine

VOCABULARY = 512
LAYERS = 4
HEADS = 4
TEXT = np.random.default_rng(0).integers(3, VOCABULARY, 150).tolist()
CONTEXT = 110
HISTORY = 3
LAST_ON = (20, 97)
WANTED = WantedStates(
    tuple(range(LAYERS + 1)),
    pooling="none",
    attention=WantedAttention(tuple(range(LAYERS)), HISTORY, context_mass=True, last_on=LAST_ON),
)

COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
GPT2 = {"n_embd": 128, "n_layer": LAYERS, "n_head": HEADS, "n_positions": 512}
FAMILIES: dict[str, dict[str, Any]] = {
    "LlamaConfig": {**COMMON, "head_dim": 32},
    "Qwen3Config": {**COMMON, "head_dim": 32},
    "Gemma2Config": {
        **COMMON,
        "head_dim": 32,
        "sliding_window": 64,
        "attn_logit_softcapping": 5.0,
        "query_pre_attn_scalar": 32,
    },
    "MixtralConfig": {
        **COMMON,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "sliding_window": None,
    },
    "GPT2Config": {**GPT2, "vocab_size": VOCABULARY, "bos_token_id": 1, "eos_token_id": 2},
}


def random_model(family: str, folder: Path) -> Any:
    """A model of transformers, saved in `folder`, whose attention is far from uniform."""
    torch.manual_seed(0)
    config = getattr(transformers, family)(**FAMILIES[family])
    model = transformers.AutoModelForCausalLM.from_config(
        config, attn_implementation="eager", dtype=torch.float32
    ).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(4.0)
    model.save_pretrained(folder)
    return model


async def ask(folder: Path, **given: Any) -> tuple[StatesSupport, list[ForcedStates]]:
    """The whole text in chunks; its completion after a cached context, with and without states."""
    async with small_engine(folder, skip_tokenizer_init=True, **given) as engine:
        support = await install_hidden_states(engine, None, max_attention_bytes=2**17)
        text = ForcedText(TEXT, CONTEXT)
        completion = WantedStates(WANTED.layers, "none", True, WANTED.attention)
        # Of these the engine computes no hidden state of an inner layer.
        weights = WantedStates((), "none", True, WANTED.attention)
        asked = {"whole": WANTED, "completion": completion, "weights": weights}
        found = [await force_states(engine, text, asked[name], name) for name in asked]
    return support, found


class Expected:
    """What transformers says of the text from position `first` on."""

    def __init__(self, model: Any, first: int) -> None:
        with torch.inference_mode():
            output = model(torch.tensor([TEXT]), output_hidden_states=True, output_attentions=True)
        self.states = torch.stack([layer[0] for layer in output.hidden_states]).numpy()[:, first:]
        attention = torch.stack([layer[0] for layer in output.attentions]).numpy()
        rows = np.arange(first, len(TEXT))
        near = [
            np.where(rows >= back, attention[:, :, rows, np.maximum(rows - back, 0)], 0)
            for back in range(HISTORY)
        ]
        self.near = np.stack(near, -1).transpose(0, 2, 1, 3)
        self.mass = attention[:, :, rows, :CONTEXT].sum(-1).transpose(0, 2, 1)
        self.last = attention[:, :, -1, slice(*LAST_ON)]


def assert_close(found: NDArray[np.float32], right: NDArray[np.float32]) -> None:
    """Within 1e-4 of each layer's largest number."""
    assert found.shape == right.shape
    scale = np.abs(right).max(axis=tuple(range(1, right.ndim)), keepdims=True)
    np.testing.assert_allclose(found / scale, right / scale, rtol=0, atol=1e-4)


def assert_right(found: ForcedStates, expected: Expected) -> None:
    if found.states.size:
        assert_close(found.states, expected.states)
    assert found.attention is not None
    assert found.attention.context_mass is not None
    assert found.attention.last is not None
    assert_close(found.attention.weights, expected.near)
    assert_close(found.attention.context_mass, expected.mass)
    assert_close(found.attention.last, expected.last)


def assert_same(family: str, folder: Path, **given: Any) -> None:
    """The engine, started with `given`, says what transformers says."""
    model = random_model(family, folder)
    support, (whole, completion, weights) = asyncio.run(ask(folder, **given))
    assert support == StatesSupport(None, LAYERS, 128, HEADS, (None,) * LAYERS)
    assert_right(whole, Expected(model, 0))
    if not FAMILIES[family].get("sliding_window"):  # vLLM gives no hit on these here
        assert completion.num_cached == CONTEXT // BLOCK * BLOCK
    assert_right(completion, Expected(model, CONTEXT))
    assert not weights.states.size
    assert_right(weights, Expected(model, CONTEXT))


@pytest.mark.parametrize("family", FAMILIES)
def test_states_and_weights_are_those_of_transformers(family: str, tmp_path: Path) -> None:
    assert_same(family, tmp_path)


def test_every_worker_of_a_tensor_parallel_group_has_some_heads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "0|1")
    assert_same("LlamaConfig", tmp_path, tensor_parallel_size=2)


def test_compiled_steps(tmp_path: Path) -> None:
    assert_same("LlamaConfig", tmp_path, enforce_eager=False)
