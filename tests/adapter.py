"""A LoRA adapter with random weights, large enough to change every probability."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

RANK = 8
SPREAD = 0.2


def merge_lora_adapter(model: torch.nn.Module, folder: Path) -> None:
    """Add the adapter's products to the weights, as PEFT's merge does at alpha = rank."""
    tensors = load_file(folder / "adapter_model.safetensors")
    for layer, block in enumerate(model.model.layers):
        name = f"base_model.model.model.layers.{layer}.self_attn.q_proj"
        down, up = tensors[f"{name}.lora_A.weight"], tensors[f"{name}.lora_B.weight"]
        block.self_attn.q_proj.weight.data += up @ down


def write_lora_adapter(model: Path, folder: Path) -> Path:
    """Write a PEFT folder for the query projections of `model`; returns it."""
    config = json.loads((model / "config.json").read_text())
    hidden = config["hidden_size"]
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for layer in range(config["num_hidden_layers"]):
        name = f"base_model.model.model.layers.{layer}.self_attn.q_proj"
        tensors[f"{name}.lora_A.weight"] = torch.randn(RANK, hidden, generator=generator) * SPREAD
        tensors[f"{name}.lora_B.weight"] = torch.randn(hidden, RANK, generator=generator) * SPREAD
    save_file(tensors, folder / "adapter_model.safetensors")
    adapter = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": str(model),
        "r": RANK,
        "lora_alpha": RANK,
        "target_modules": ["q_proj"],
        "bias": "none",
    }
    (folder / "adapter_config.json").write_text(json.dumps(adapter))
    return folder
