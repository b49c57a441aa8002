"""Small models of random weights, in place of those that lm-polygraph compares texts with.

They show that estimators run, and that two runs compare the same texts. Their verdicts are noise.
"""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    DebertaV2Config,
    DebertaV2ForSequenceClassification,
)

SIZES = {
    **{"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2},
    # Wide enough that the verdicts on two texts differ.
    **{"intermediate_size": 64, "initializer_range": 1.0},
}


def write_nli_model(folder: Path, tokenizer_path: str) -> Path:
    """One that lm-polygraph loads as a DeBERTa for entailment."""
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_path)
    labels = {0: "CONTRADICTION", 1: "NEUTRAL", 2: "ENTAILMENT"}
    torch.manual_seed(0)
    config = DebertaV2Config(
        vocab_size=len(tokenizer),
        id2label=labels,
        label2id={label: number for number, label in labels.items()},
        **SIZES,
    )
    DebertaV2ForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_cross_encoder(folder: Path, tokenizer_path: str) -> Path:
    """One that sentence-transformers loads as a CrossEncoder."""
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_path)
    torch.manual_seed(1)
    config = BertConfig(vocab_size=len(tokenizer), num_labels=1, **SIZES)
    BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
