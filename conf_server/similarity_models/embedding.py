"""Cosine similarity of sentence embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModel, AutoTokenizer

BATCH: Final = 32


class EmbeddingModel:
    """A sentence-embedding model: the mean of its last hidden states over the text's tokens.

    That is how Sentence-BERT (arXiv 1908.10084) and most models after it are trained. The
    cosine c of two embeddings becomes the similarity max(c, 0).
    """

    symmetric = True

    def __init__(self, path: str, device: str = "cpu") -> None:
        """Load the model.

        Raises:
            OSError, ValueError: no such model, or transformers cannot load it.
        """
        self._tokenizer = AutoTokenizer.from_pretrained(path)
        self._model = AutoModel.from_pretrained(path).eval().to(device)
        self._device = device

    def judge(self, pairs: Sequence[tuple[str, str]]) -> NDArray[np.float64]:
        """(pairs, 3): similarity, 0, 1 - similarity. Every text is embedded once."""
        texts = list(dict.fromkeys(text for pair in pairs for text in pair))
        place = {text: i for i, text in enumerate(texts)}
        vectors = self.embed(texts)
        first = vectors[[place[a] for a, _ in pairs]]
        second = vectors[[place[b] for _, b in pairs]]
        similarity = np.clip((first * second).sum(axis=1), 0.0, 1.0)
        return np.stack((similarity, np.zeros_like(similarity), 1 - similarity), axis=1)

    @torch.inference_mode()
    def embed(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """(texts, dimensions), each of length 1."""
        parts = []
        for start in range(0, len(texts), BATCH):
            batch: Any = self._tokenizer(
                list(texts[start : start + BATCH]),
                padding=True,
                truncation=True,
                return_tensors="pt",
            ).to(self._device)
            hidden = self._model(**batch).last_hidden_state.double()
            mask = batch["attention_mask"].unsqueeze(-1)
            mean = (hidden * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)
            parts.append(torch.nn.functional.normalize(mean, dim=1).cpu().numpy())
        return np.concatenate(parts)
