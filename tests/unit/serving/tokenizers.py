"""Real tokenizers of every kind, from packages that the tests install anyway."""

from __future__ import annotations

import shutil
from pathlib import Path

import mistral_common
from transformers import LlamaTokenizer
from vllm.tokenizers import TokenizerLike, get_tokenizer

DATA = Path(mistral_common.__file__).parent / "data"
KINDS = ("byte-level BPE", "SentencePiece with byte fallback", "Tekken", "WordPiece")


def load_tokenizer(kind: str, model: Path, sentence_model: Path, folder: Path) -> TokenizerLike:
    """Load a tokenizer as vLLM does for a model.

    Args:
        model, sentence_model: the embedded models.
        folder: an empty one.
    """
    if kind == "byte-level BPE":
        return get_tokenizer(str(model))
    if kind == "WordPiece":
        return get_tokenizer(str(sentence_model))
    if kind == "Tekken":
        shutil.copy(DATA / "tekken_240911.json", folder / "tekken.json")
        return get_tokenizer(str(folder), tokenizer_mode="mistral")
    shutil.copy(DATA / "tokenizer.model.v1", folder / "tokenizer.model")
    LlamaTokenizer.from_pretrained(folder).save_pretrained(folder / "fast")
    (folder / "fast" / "config.json").write_text('{"model_type": "llama"}')
    return get_tokenizer(str(folder / "fast"))
