"""Cosine similarity of sentence embeddings."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModel, AutoTokenizer

from conf_server.concurrency import never, raise_if
from conf_server.judges.lengths import encode, max_tokens
from conf_server.uncertainty.pairs import from_similarities

BATCH: Final = 32
_STEPS: Final = frozenset({"Transformer", "Pooling", "Normalize"})
_POOLINGS: Final = ("mean_tokens", "cls_token")


class EmbeddingModel:
    """A sentence-embedding model in the folder format of sentence-transformers, or any encoder.

    The folder says how the last hidden states become one vector: their mean over the text's
    tokens, which is how Sentence-BERT (arXiv 1908.10084) and most after it are trained, or the
    first token's. A folder that does not say gets the mean. The cosine c of two embeddings
    becomes the similarity max(c, 0).
    """

    symmetric = True

    def __init__(self, path: str, device: str = "cpu") -> None:
        """Load the model.

        Raises:
            OSError, ValueError: no such folder, transformers cannot load it, or it pools in
                another way.
        """
        folder = Path(path)
        if not folder.is_dir():
            raise OSError("no such folder")
        self._pooling = pooling(folder)
        self._tokenizer = AutoTokenizer.from_pretrained(path)
        self._model = AutoModel.from_pretrained(path).eval().to(device)
        own = _read(folder / "sentence_bert_config.json").get("max_seq_length")
        self._max_tokens = own or max_tokens(self._tokenizer, self._model.config)
        self._device = device

    def judge(
        self, pairs: Sequence[tuple[str, str]], cancelled: Callable[[], bool] = never
    ) -> tuple[NDArray[np.float64], bool]:
        """(pairs, 3) verdicts, and whether all of every text was read.

        A verdict is similarity, 0, 1 - similarity. Every text is embedded once.

        Raises:
            CancelledError: `cancelled` turned true between two batches.
        """
        texts = list(dict.fromkeys(text for pair in pairs for text in pair))
        place = {text: i for i, text in enumerate(texts)}
        vectors, whole = self.embed(texts, cancelled)
        first = vectors[[place[a] for a, _ in pairs]]
        second = vectors[[place[b] for _, b in pairs]]
        return from_similarities((first * second).sum(axis=1)), whole

    @torch.inference_mode()
    def embed(
        self, texts: Sequence[str], cancelled: Callable[[], bool] = never
    ) -> tuple[NDArray[np.float64], bool]:
        """(texts, dimensions), each of length 1, and whether all of every text was read."""
        parts, all_whole = [], True
        for start in range(0, len(texts), BATCH):
            raise_if(cancelled)
            batch, whole = encode(self._tokenizer, self._max_tokens, texts[start : start + BATCH])
            all_whole &= whole
            hidden = self._model(**batch.to(self._device)).last_hidden_state.double()
            vectors = hidden[:, 0] if self._pooling == "cls_token" else _mean(hidden, batch)
            parts.append(torch.nn.functional.normalize(vectors, dim=1).cpu().numpy())
        return np.concatenate(parts), all_whole


def pooling(folder: Path) -> str:
    """`mean_tokens` or `cls_token`, as the folder of a sentence-transformers model says.

    Raises:
        ValueError: it says something else, or has further layers.
    """
    steps = _read(folder / "modules.json", [])
    names = [step["type"].rpartition(".")[2] for step in steps]
    if others := [name for name in names if name not in _STEPS]:
        raise ValueError(f"sentence embeddings with {', '.join(others)} are not supported")
    for step, name in zip(steps, names, strict=True):
        if name == "Pooling":
            config = _read(folder / step["path"] / "config.json")
            modes = [key for key, on in config.items() if key.startswith("pooling_mode_") and on]
            chosen = [mode.removeprefix("pooling_mode_") for mode in modes]
            if len(chosen) != 1 or chosen[0] not in _POOLINGS:
                raise ValueError(f"pooling by {chosen} is not supported, only {_POOLINGS}")
            return chosen[0]
    return "mean_tokens"


def _read(path: Path, default: Any = None) -> Any:
    return json.loads(path.read_text()) if path.is_file() else default or {}


def _mean(hidden: torch.Tensor, batch: Any) -> torch.Tensor:
    mask = batch["attention_mask"].unsqueeze(-1)
    return (hidden * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)
