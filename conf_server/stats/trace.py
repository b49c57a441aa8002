"""The tokens of one sequence with their candidates, as arrays that grow in place."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_FIRST_CAPACITY = 32


class TokenTrace:
    """Log-probabilities of n tokens and of the w likeliest candidates at each.

    Rows are appended as the engine yields them; no object is made per candidate.

    Attributes:
        width: w, how many candidates a row holds.
        num_statistics: s, how many of the engine's statistics (`TokenStatistic`) follow
            them; 0 where the engine computes none.
    """

    __slots__ = (
        "_ids",
        "_length",
        "_logprobs",
        "_ranks",
        "_statistics",
        "num_statistics",
        "width",
    )

    def __init__(self, width: int, num_statistics: int = 0) -> None:
        if width < 0:
            raise ValueError(f"width must not be negative, got {width}")
        self.width = width
        self.num_statistics = num_statistics
        self._length = 0
        self._allocate(_FIRST_CAPACITY)

    def _allocate(self, capacity: int) -> None:
        self._ids = np.empty((capacity, self.width + 1), np.int32)
        self._logprobs = np.empty((capacity, self.width + 1), np.float32)
        self._ranks = np.empty(capacity, np.int32)
        self._statistics = np.empty((capacity, self.num_statistics), np.float32)

    def _reserve(self, capacity: int) -> None:
        if capacity <= len(self._ranks):
            return
        old = self._buffers()
        self._allocate(max(capacity, 2 * len(self._ranks)))
        for source, target in zip(old, self._buffers(), strict=True):
            target[: self._length] = source[: self._length]

    def _buffers(self) -> tuple[NDArray, ...]:
        return self._ids, self._logprobs, self._ranks, self._statistics

    def append(self, ids: NDArray, logprobs: NDArray, ranks: NDArray) -> None:
        """Add m tokens.

        Args:
            ids: (m, at least w+1) token ids: the token itself, then its candidates,
                likeliest first. Columns past w+1 belong to others and are left out.
            logprobs: (m, at least w+1+s), nats: of those ids, and the last s columns are
                statistics.
            ranks: (m,) rank of the token itself.

        Raises:
            ValueError: rows are too narrow, or their numbers differ.
        """
        columns, width = self.width + 1, logprobs.shape[1]
        if ids.shape[1] < columns or width < columns + self.num_statistics:
            raise ValueError(
                f"rows of {ids.shape[1]} ids and {width} numbers, expected {columns} and "
                f"{columns + self.num_statistics}"
            )
        # numpy would broadcast a single row without a word.
        if not len(ids) == len(logprobs) == len(ranks):
            raise ValueError(
                f"shapes {ids.shape}, {logprobs.shape} and {ranks.shape} do not go together"
            )
        start, stop = self._length, self._length + len(ranks)
        self._reserve(stop)
        self._ids[start:stop] = ids[:, :columns]
        self._logprobs[start:stop] = logprobs[:, :columns]
        self._ranks[start:stop] = ranks
        if self.num_statistics:
            self._statistics[start:stop] = logprobs[:, width - self.num_statistics :]
        self._length = stop

    def __len__(self) -> int:
        return self._length

    def rows(self, start: int, stop: int) -> TraceRows:
        """Tokens start..stop-1, without a copy; bounds are clamped to the tokens there are."""
        start = max(0, start)
        stop = max(start, min(stop, self._length))
        part = slice(start, stop)
        statistics = self._statistics[part] if self.num_statistics else None
        return TraceRows(self._ids[part], self._logprobs[part], self._ranks[part], statistics)

    def all(self) -> TraceRows:
        """Every token so far, without a copy."""
        return self.rows(0, self._length)


class TraceRows:
    """A stretch of n tokens of a trace: views, to be read only.

    Attributes:
        token_ids: (n,) int32, the sampled (or teacher-forced) tokens.
        logprobs: (n,) float32, their log-probabilities in nats.
        ranks: (n,) int32, their ranks in the vocabulary, 1 = likeliest.
        candidate_ids: (n, w) int32, the likeliest tokens, likeliest first.
        candidate_logprobs: (n, w) float32, their log-probabilities in nats.
        statistics: (n, s) float32, columns as in `TokenStatistic`; None where the engine
            computed none.
    """

    __slots__ = (
        "candidate_ids",
        "candidate_logprobs",
        "logprobs",
        "ranks",
        "statistics",
        "token_ids",
    )

    def __init__(
        self,
        ids: NDArray,
        logprobs: NDArray,
        ranks: NDArray,
        statistics: NDArray | None = None,
    ) -> None:
        self.token_ids = ids[:, 0]
        self.logprobs = logprobs[:, 0]
        self.ranks = ranks
        self.statistics = statistics
        self.candidate_ids = ids[:, 1:]
        self.candidate_logprobs = logprobs[:, 1:]

    def __len__(self) -> int:
        return len(self.ranks)
