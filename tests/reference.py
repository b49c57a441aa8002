"""The same model in transformers, float32: what the numbers have to agree with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.adapter import merge_lora_adapter


def token_statistics(rows: NDArray[np.float64], k: int) -> NDArray[np.float64]:
    """(n, 7): `TokenStatistic`'s columns of (n, V) log-probabilities, term by term."""
    best = -np.sort(-rows, axis=1)
    return np.column_stack(
        (
            -best[:, :k].mean(axis=1),
            -(np.exp(rows) * rows).sum(axis=1),
            rows.mean(axis=1),
            np.log(np.exp(rows / 2).sum(axis=1)),
            np.log(np.exp(rows / 4).sum(axis=1)),
            best[:, 0],
            best[:, 1],
        )
    )


def metrics_by_definition(rows: NDArray[np.float64], token_ids: list[int]) -> dict[str, float]:
    """The metrics of one answer from its tokens' full log-probabilities, sum by sum."""
    own = rows[np.arange(len(rows)), token_ids]
    entropy = -(np.exp(rows) * rows).sum(axis=1)
    vocabulary = rows.shape[1]
    softened = np.exp(rows / 2) / np.exp(rows / 2).sum(axis=1, keepdims=True)
    overlap = np.sqrt(softened / vocabulary).sum(axis=1)  # with the flat distribution
    best = np.exp(-np.sort(-rows, axis=1)[:, :2])
    return {
        "perplexity": np.exp(-own.mean()),
        "maximum_sequence_probability": -own.sum(),
        "mean_token_entropy": entropy.mean(),
        "max_token_entropy": entropy.max(),
        "self_certainty": (rows.mean(axis=1) + np.log(vocabulary)).mean(),
        "renyi_neg": (2 * np.log(overlap)).mean(),
        "fisher_rao": (-2 / np.pi * np.arccos(overlap)).mean(),
        "probability_gap": (1 - best[:, 0] + best[:, 1]).mean(),
    }


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
