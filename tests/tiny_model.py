"""A model that is quick because it is tiny: random weights, and the embedded model's tokenizer.

Two of its tokens are those that a reasoning parser looks for.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

import torch
from transformers import LlamaConfig, LlamaForCausalLM

THINK: Final = 4
END_THINK: Final = 5
_NAMES: Final = {THINK: "<think>", END_THINK: "</think>"}
"""By id; they stand where tokens of code repositories were."""

_COPIED: Final = ("tokenizer_config.json", "chat_template.jinja", "generation_config.json")


def write_tiny_model(model: Path, folder: Path) -> Path:
    """Write it for the tokenizer of `model`; returns the folder."""
    for name in _COPIED:
        (folder / name).write_bytes((model / name).read_bytes())
    tokenizer = json.loads((model / "tokenizer.json").read_text())
    for token in tokenizer["added_tokens"]:
        if (name := _NAMES.get(token["id"])) is not None:
            tokenizer["model"]["vocab"][name] = tokenizer["model"]["vocab"].pop(token["content"])
            token |= {"content": name, "special": False}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    given = json.loads((model / "config.json").read_text())
    same = ("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id")
    config = LlamaConfig(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=2048,
        tie_word_embeddings=False,
        **{name: given[name] for name in same},
    )
    torch.manual_seed(0)
    made = LlamaForCausalLM(config).float()
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.dim() > 1:
                parameter.mul_(20.0)  # so that it is sure of some tokens and unsure of others
    made.save_pretrained(folder)
    return folder
