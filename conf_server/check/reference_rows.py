"""What the reference's logits say where the engine has given rows, in float64. Numpy alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from conf_server.check.dominant_tokens import DominantTokens
from conf_server.check.reference_statistics import ReferenceStatistics, reference_statistics

_ROWS_AT_ONCE: Final = 64
"""How many rows are taken at a time. 64 rows of 150,000 doubles are 77 MB, of which five or six
are in memory at once."""


@dataclass(frozen=True)
class ReferenceRows:
    """What the reference says about n tokens that the engine has given rows for.

    Attributes:
        logprobs: (n,) the log-probabilities of the tokens, in nats.
        candidate_logprobs: (n, w) the log-probabilities of the *engine's* candidates, in nats.
        best_ids: (n,) the tokens that the reference finds likeliest.
        best_logprobs: (n,) the log-probabilities of these, in nats.
        statistics: the statistics of whole rows; None where the engine computes none.
    """

    logprobs: NDArray
    candidate_logprobs: NDArray
    best_ids: NDArray
    best_logprobs: NDArray
    statistics: ReferenceStatistics | None = None


def reference_rows(
    logits: NDArray, token_ids: NDArray, candidate_ids: NDArray, statistics: bool
) -> ReferenceRows:
    """The rows of tokens that are distributed as these logits say.

    Args:
        logits: (n, V) float32, n >= 1.
        token_ids: (n,) the tokens.
        candidate_ids: (n, w) the engine's candidates; w is also the k of its confidence.
        statistics: whether to compute the token statistics.
    """
    given = np.column_stack((token_ids, candidate_ids)).astype(np.int64)
    top_k = candidate_ids.shape[1] if statistics else None
    blocks = [slice(at, at + _ROWS_AT_ONCE) for at in range(0, len(logits), _ROWS_AT_ONCE)]
    return _joined([_block(logits[rows], given[rows], top_k) for rows in blocks])


def _block(logits: NDArray, given: NDArray, top_k: int | None) -> ReferenceRows:
    logprobs = log_softmax(logits)
    found = np.take_along_axis(logprobs, given, axis=1)
    best = logprobs.argmax(1)
    return ReferenceRows(
        logprobs=found[:, 0],
        candidate_logprobs=found[:, 1:],
        best_ids=best,
        best_logprobs=np.take_along_axis(logprobs, best[:, None], axis=1)[:, 0],
        statistics=None if top_k is None else reference_statistics(logprobs, top_k),
    )


def log_softmax(logits: NDArray) -> NDArray[np.float64]:
    """(n, V) log-probabilities of (n, V) logits, in nats."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def _joined(blocks: list[ReferenceRows]) -> ReferenceRows:
    def column(name: str) -> NDArray:
        return np.concatenate([getattr(block, name) for block in blocks])

    statistics = [block.statistics for block in blocks if block.statistics is not None]
    return ReferenceRows(
        logprobs=column("logprobs"),
        candidate_logprobs=column("candidate_logprobs"),
        best_ids=column("best_ids"),
        best_logprobs=column("best_logprobs"),
        statistics=ReferenceStatistics(
            np.concatenate([block.values for block in statistics]),
            np.concatenate([block.sensitivities for block in statistics]),
            DominantTokens.joined([block.dominant for block in statistics]),
        )
        if statistics
        else None,
    )
