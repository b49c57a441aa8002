"""Model folders without weights, for `--load-format dummy`: the shapes of two public models.

vLLM makes up the weights, so that a model's distributions are nearly flat and its texts are
nonsense. Only times mean anything.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# This is Llama 3's vocabulary size, so it is what the statistics kernel meets in practice.
VOCABULARY = 128_256
COPIED = ("chat_template.jinja", "generation_config.json", "tokenizer_config.json")

_LLAMA_3: Mapping[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "dtype": "bfloat16",
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "max_position_embeddings": 131_072,
    "mlp_bias": False,
    "model_type": "llama",
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "use_cache": True,
    "vocab_size": VOCABULARY,
}


def _rope(factor: float) -> dict[str, Any]:
    return {
        "rope_type": "llama3",
        "rope_theta": 500_000.0,
        "factor": factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8_192,
    }


# The shapes of Llama-3.2-1B and Llama-3.1-8B, with their exact numbers of parameters.
SHAPES: Mapping[str, Mapping[str, Any]] = {
    "1B": {
        "hidden_size": 2_048,
        "intermediate_size": 8_192,
        "num_hidden_layers": 16,
        "head_dim": 64,
        "tie_word_embeddings": True,
        "rope_parameters": _rope(32.0),
    },
    "8B": {
        "hidden_size": 4_096,
        "intermediate_size": 14_336,
        "num_hidden_layers": 32,
        "head_dim": 128,
        "tie_word_embeddings": False,
        "rope_parameters": _rope(8.0),
    },
}


class ShapeError(RuntimeError):
    """A folder cannot be made of the embedded model; the message says why."""


def write_shape(name: str, embedded_model: Path, folder: Path) -> None:
    """Make a folder with a shape's config and the embedded model's tokenizer.

    Args:
        name: a key of SHAPES.
        embedded_model: where tokenizer and chat template come from.
        folder: made anew.

    Raises:
        ShapeError: there is no embedded model, or its vocabulary cannot be extended.
    """
    if not (embedded_model / "tokenizer.json").is_file():
        raise ShapeError(f"no model in {embedded_model}: run `make model`")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for file in COPIED:
        shutil.copyfile(embedded_model / file, folder / file)
    own = json.loads((embedded_model / "config.json").read_text())
    special = {key: own[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    _write(folder / "config.json", {**_LLAMA_3, **SHAPES[name], **special})
    tokenizer = json.loads((embedded_model / "tokenizer.json").read_text())
    pad_vocabulary(tokenizer["model"]["vocab"], VOCABULARY)
    _write(folder / "tokenizer.json", tokenizer)


def pad_vocabulary(vocabulary: dict[str, int], size: int) -> None:
    """Give each id up to `size` a text, as in a real vocabulary, because dummy weights sample all.

    No merge leads to an added text, so texts are tokenized as before. "Ġ" is byte-level BPE's
    space: each added id decodes to a word of usual length, and answers have their usual size.

    Raises:
        ShapeError: ids are not 0..n-1, or a text is taken.
    """
    known = len(vocabulary)
    if sorted(vocabulary.values()) != list(range(known)):
        raise ShapeError("the tokenizer's ids have gaps")
    for token in range(known, size):
        text = f"Ġw{token:x}"
        if text in vocabulary:
            raise ShapeError(f"the tokenizer has {text!r} already")
        vocabulary[text] = token


def _write(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
