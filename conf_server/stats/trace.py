"""The tokens of one sequence with their candidates, as arrays that grow in place."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from conf_server.stats.row_layout import FIRST_CANDIDATE, OWN, ColumnGroup, EngineRows, RowLayout

_FIRST_CAPACITY = 32


class TokenTrace:
    """Log-probabilities of n tokens and of the w likeliest candidates at each.

    Rows are appended as the engine yields them; no object is made per candidate.

    Attributes:
        layout: which columns a row has.
    """

    __slots__ = ("_ids", "_length", "_logprobs", "_ranks", "layout")

    def __init__(self, width: int, groups: tuple[ColumnGroup, ...] = ()) -> None:
        """
        Args:
            width: w, how many candidates a row holds.
            groups: what the workers have appended to it.
        """
        self.layout = RowLayout(width, groups)
        self._length = 0
        self._allocate(_FIRST_CAPACITY)

    @property
    def width(self) -> int:
        """w, how many candidates a row holds."""
        return self.layout.candidates

    def _allocate(self, capacity: int) -> None:
        self._ids = np.empty((capacity, self.layout.named), np.int32)
        self._logprobs = np.empty((capacity, self.layout.width), np.float32)
        self._ranks = np.empty(capacity, np.int32)

    def _reserve(self, capacity: int) -> None:
        if capacity <= len(self._ranks):
            return
        old = self._buffers()
        self._allocate(max(capacity, 2 * len(self._ranks)))
        for source, target in zip(old, self._buffers(), strict=True):
            target[: self._length] = source[: self._length]

    def _buffers(self) -> tuple[NDArray, ...]:
        return self._ids, self._logprobs, self._ranks

    def append(self, ids: NDArray, logprobs: NDArray, ranks: NDArray) -> None:
        """Add m tokens.

        Args:
            ids: (m, columns) as in `EngineRows`; columns that belong to others are left out.
            logprobs: (m, columns), as in `EngineRows`.
            ranks: (m,), as in `EngineRows`.

        Raises:
            ValueError: the rows do not fit the layout, or their numbers differ.
        """
        own = self.layout.narrowed(EngineRows(ids, logprobs, ranks), np.concatenate)
        if own is None:
            raise ValueError(
                f"rows of {ids.shape[1]} ids and {logprobs.shape[1]} numbers, expected "
                f"{self.layout.named} and {self.layout.width}"
            )
        # numpy would broadcast a single row without a word.
        if not len(ids) == len(logprobs) == len(ranks):
            raise ValueError(
                f"shapes {ids.shape}, {logprobs.shape} and {ranks.shape} do not go together"
            )
        start, stop = self._length, self._length + len(ranks)
        self._reserve(stop)
        self._ids[start:stop] = own.ids
        self._logprobs[start:stop] = own.logprobs
        self._ranks[start:stop] = ranks
        self._length = stop

    def extend(self, rows: TraceRows) -> None:
        """Add the tokens of another trace with the same columns.

        Raises:
            ValueError: as `append`.
        """
        numbers = rows.named_logprobs
        if rows.statistics is not None:
            numbers = np.concatenate([numbers, rows.statistics], axis=1)
        self.append(rows.named_ids, numbers, rows.ranks)

    def __len__(self) -> int:
        return self._length

    def rows(self, start: int, stop: int) -> TraceRows:
        """Tokens start..stop-1, without a copy; bounds are clamped to the tokens there are."""
        start = max(0, start)
        stop = max(start, min(stop, self._length))
        part = slice(start, stop)
        logprobs, groups = self.layout.split(self._logprobs[part])
        statistics = groups.get(ColumnGroup.STATISTICS)
        return TraceRows(self._ids[part], logprobs, self._ranks[part], statistics)

    def all(self) -> TraceRows:
        """Every token so far, without a copy."""
        return self.rows(0, self._length)


class TraceRows:
    """A stretch of n tokens of a trace: views, to be read only.

    Attributes:
        named_ids: (n, 1 + w) int32, the own token of each row, then its candidates.
        named_logprobs: (n, 1 + w) float32, their log-probabilities in nats.
        ranks: (n,) int32, the own tokens' ranks in the vocabulary, 1 = likeliest.
        statistics: (n, s) float32, columns as in `TokenStatistic`; None where the engine
            computed none.
    """

    __slots__ = ("named_ids", "named_logprobs", "ranks", "statistics")

    def __init__(
        self,
        ids: NDArray,
        logprobs: NDArray,
        ranks: NDArray,
        statistics: NDArray | None = None,
    ) -> None:
        self.named_ids = ids
        self.named_logprobs = logprobs
        self.ranks = ranks
        self.statistics = statistics

    @property
    def token_ids(self) -> NDArray:
        """(n,) int32, the sampled (or teacher-forced) tokens."""
        return self.named_ids[:, OWN]

    @property
    def logprobs(self) -> NDArray:
        """(n,) float32, their log-probabilities in nats."""
        return self.named_logprobs[:, OWN]

    @property
    def candidate_ids(self) -> NDArray:
        """(n, w) int32, the likeliest tokens, likeliest first."""
        return self.named_ids[:, FIRST_CANDIDATE:]

    @property
    def candidate_logprobs(self) -> NDArray:
        """(n, w) float32, their log-probabilities in nats."""
        return self.named_logprobs[:, FIRST_CANDIDATE:]

    def part(self, start: int, stop: int) -> TraceRows:
        """Tokens start..stop-1, without a copy."""
        rows = slice(start, stop)
        statistics = None if self.statistics is None else self.statistics[rows]
        return TraceRows(
            self.named_ids[rows], self.named_logprobs[rows], self.ranks[rows], statistics
        )

    def __len__(self) -> int:
        return len(self.ranks)
