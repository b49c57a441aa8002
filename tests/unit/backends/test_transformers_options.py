"""Options of loading that cannot be meant, or that this machine cannot meet."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BloomConfig

from conf_server.backends.transformers_model import load
from conf_server.backends.transformers_options import TransformersOptions
from conf_server.settings import SettingsError


@pytest.mark.parametrize(
    ("name", "value", "flag"),
    [
        ("dtype", "float64", "--dtype"),
        ("device", "tpu", "--device"),
        ("device", "cuda:x", "--device"),
        ("quantization", "int2", "--quantization"),
        ("attention", "paged", "--attention-implementation"),
        ("cache", "paged", "--cache"),
        ("memory_fraction", 0.0, "--memory-fraction"),
        ("memory_fraction", 1.1, "--memory-fraction"),
        ("max_len", 0, "--max-model-len"),
        ("max_logprobs", -2, "--max-logprobs"),
        ("max_batch_tokens", 0, "--max-batch-tokens"),
        ("max_generations", 0, "--max-generations"),
    ],
)
def test_a_value_that_cannot_be_meant(name: str, value: Any, flag: str) -> None:
    with pytest.raises(SettingsError, match=f"^{flag}: "):
        TransformersOptions("model", **{name: value})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "/nowhere"}, "^--model: transformers finds no model in /nowhere"),
        ({"tokenizer": "/nowhere"}, "^--tokenizer: there is none in /nowhere"),
        ({"max_len": 8193}, "^--max-model-len: 8193 is more than the 8192"),
    ],
)
def test_what_the_model_cannot_meet(
    options: TransformersOptions, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        load(replace(options, **change))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there(options: TransformersOptions) -> None:
    with pytest.raises(SettingsError, match=r"^--device: torch sees no GPU for cuda:1"):
        load(replace(options, device="cuda:1"))


def test_quantization_says_what_to_install(options: TransformersOptions) -> None:
    """Neither package is among the test's requirements."""
    pytest.importorskip("accelerate")
    with pytest.raises(SettingsError, match=r"^--quantization: int4 .*pip install bitsandbytes"):
        load(replace(options, quantization="int4"))
    with pytest.raises(SettingsError, match=r"^--quantization: int8 .*pip install torchao"):
        load(replace(options, quantization="int8"))


def test_a_model_that_names_no_longest_text(options: TransformersOptions, tmp_path: Path) -> None:
    BloomConfig(vocab_size=97, hidden_size=32, n_layer=1, n_head=2).save_pretrained(tmp_path)
    with pytest.raises(SettingsError, match=r"^--max-model-len: the model's config names no"):
        load(replace(options, model=str(tmp_path), max_len=None))


@pytest.mark.usefixtures("one_thread")
def test_the_cpu_computes_in_float32_unless_it_is_told_otherwise(
    options: TransformersOptions,
) -> None:
    assert load(replace(options, dtype="auto")).model.dtype is torch.float32
    assert load(replace(options, dtype="bfloat16")).model.dtype is torch.bfloat16
