"""The same model in transformers, float32: what the numbers have to agree with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.adapter import merge_lora_adapter


class Reference:
    """Full log-probabilities of a text, one forward pass."""

    def __init__(self, path: Path, adapter: Path | None = None) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(path)
        self._model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
        if adapter is not None:
            merge_lora_adapter(self._model, adapter)

    def logprobs(self, token_ids: list[int]) -> NDArray[np.float64]:
        """(n-1, vocabulary): row t is the distribution of token t+1."""
        with torch.inference_mode():
            logits = self._model(torch.tensor([token_ids])).logits[0, :-1]
        return logits.double().log_softmax(-1).numpy()

    def token_logprobs(self, token_ids: list[int]) -> NDArray[np.float64]:
        """(n-1,): log-probability of each token but the first."""
        rows = self.logprobs(token_ids)
        return rows[np.arange(len(rows)), token_ids[1:]]
