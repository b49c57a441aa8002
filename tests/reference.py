"""What the server's numbers have to agree with: definitions in numpy, and the same model in
transformers, in float32.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from conf_server.check.transformers_scorer import TransformersScorer, load_tokenizer
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


def boosted(row: NDArray[np.float64], token_id: int) -> float:
    """BoostedProb's probability of a token."""
    mass, least = dominant(row)
    return float(np.exp(mass if row[token_id] >= least else row[token_id]))


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
        "boosted_prob_sequence": -np.mean(
            [boosted(row, token) for row, token in zip(rows, token_ids, strict=True)]
        ),
    }


class Reference(TransformersScorer):
    """The scorer of `conf-server check`, which test_transformers_scorer holds to transformers' own
    loss, with the model's tokenizer and maybe an adapter merged into its weights.
    """

    def __init__(self, path: Path, adapter: Path | None = None) -> None:
        super().__init__(str(path))
        self.tokenizer = load_tokenizer(str(path), {})
        if adapter is not None:
            merge_lora_adapter(self.model, adapter)

    def logprobs(self, token_ids: list[int]) -> NDArray[np.float64]:
        """(n-1, V): row t is the distribution of token t + 1, nats."""
        return self.log_softmax(token_ids)
