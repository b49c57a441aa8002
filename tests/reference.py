"""The same model in transformers, float32: what the numbers have to agree with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.adapter import merge_lora_adapter


def dominant(row: NDArray[np.float64]) -> tuple[float, float]:
    """BoostedProb's dominant tokens of one row of log-probabilities.

    Step by step as boostedprob 0.1.3 finds them, with its defaults.

    Returns:
        log of their mass, and the smallest of their log-probabilities.
    """
    best = -np.sort(-row)
    p = np.exp(best)
    mass, least = -np.inf, np.inf
    for i in range(len(p) - 1):
        if p[i] - p[i + 1] > max(0.005, 0.3 * p[i]):
            mass, least = np.log(p[: i + 1].sum()), best[i]
    return mass, least


def token_statistics(rows: NDArray[np.float64], k: int) -> NDArray[np.float64]:
    """(n, 9): `TokenStatistic`'s columns of (n, V) log-probabilities, term by term."""
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
            np.array([dominant(row) for row in rows]).reshape(-1, 2),
        )
    )


def lm_polygraph_metrics(rows: NDArray[np.float64], token_ids: list[int]) -> dict[str, float]:
    """lm-polygraph 0.7.0's estimators of one answer from its tokens' full log-probabilities."""
    own = rows[np.arange(len(rows)), token_ids]
    entropy = -(np.exp(rows) * rows).sum(axis=1)
    vocabulary = rows.shape[1]
    softened = np.exp(rows / 2) / np.exp(rows / 2).sum(axis=1, keepdims=True)
    renyi = (np.log(np.sqrt(softened).sum(axis=1)) + 0.5 * np.log(vocabulary)) / -0.5
    fisher_rao = 2 / np.pi * np.arccos(np.sqrt(softened).sum(axis=1) / np.sqrt(vocabulary))
    best = np.exp(-np.sort(-rows, axis=1)[:, :2])
    return {
        "perplexity": -own.mean(),
        "maximum_sequence_probability": -own.sum(),
        "mean_token_entropy": entropy.mean(),
        "max_token_entropy": entropy.max(),
        "self_certainty": (rows.mean(axis=1) + np.log(vocabulary)).mean(),
        "renyi_neg": renyi.mean(),
        "fisher_rao": fisher_rao.mean(),
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
