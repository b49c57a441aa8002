"""Which column of the engine's rows holds what. No other module knows it.

For every token the engine gives one row, in three arrays:

    ids       own token | candidates
    logprobs  own token | candidates | column groups
    ranks     own token

The columns of `ids` and the first columns of `logprobs` belong together: they name tokens. What
stands to the right of them in `logprobs` belongs to no single token; `ColumnGroup` lists it.

The rows of all requests in a step share their arrays. A row can therefore hold more than its own
request has asked for: further candidates behind its own, and column groups for others.

Arrays of numpy and tensors of torch are treated alike, since their shapes are read and their
columns are sliced, and nothing else. Whoever has to join columns hands in `numpy.concatenate` or
`torch.cat`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from itertools import combinations
from typing import Any, Final, NamedTuple

from conf_server.stats.columns import NUM_TOKEN_STATISTICS

OWN: Final = 0
"""The column of the row's own token: the one that was sampled, or that was forced."""

FIRST_CANDIDATE: Final = 1
"""The column of the first candidate, which is the likeliest unless the request names tokens."""

Concatenate = Callable[[tuple[Any, ...], int], Any]
"""`numpy.concatenate` or `torch.cat`: the arrays, and the axis that grows."""


class ColumnGroup(Enum):
    """Columns that the workers append to the log-probabilities, in the order they stand in."""

    STATISTICS = "statistics"
    """The columns of `TokenStatistic`."""


GROUP_WIDTHS: Final[Mapping[ColumnGroup, int]] = {ColumnGroup.STATISTICS: NUM_TOKEN_STATISTICS}

# Rows do not say which groups they carry, but the number of their columns does.
_CARRIED: Final = {
    sum(GROUP_WIDTHS[group] for group in groups): groups
    for count in range(len(ColumnGroup) + 1)
    for groups in combinations(ColumnGroup, count)
}


class EngineRows(NamedTuple):
    """Rows of n tokens: the first three fields of vLLM's `LogprobsLists` and `LogprobsTensors`.

    Attributes:
        ids: (n, columns that name tokens) int32.
        logprobs: (n, those and the columns of groups) float32, nats.
        ranks: (n,) the own token's rank in the vocabulary, 1 = likeliest; 0 where nobody asked.
    """

    ids: Any
    logprobs: Any
    ranks: Any


@dataclass(frozen=True)
class RowLayout:
    """The columns that one request has asked for.

    Attributes:
        candidates: how many tokens a row names beside its own.
        groups: the column groups behind them, in the order of `ColumnGroup`.

    Raises:
        ValueError: a negative number of candidates.
    """

    candidates: int
    groups: tuple[ColumnGroup, ...] = ()

    def __post_init__(self) -> None:
        if self.candidates < 0:
            raise ValueError(f"a row's width must not be negative, got {self.candidates}")

    @cached_property
    def named(self) -> int:
        """Columns of `ids`, and of the log-probabilities that belong to them."""
        return FIRST_CANDIDATE + self.candidates

    @cached_property
    def width(self) -> int:
        """Columns of `logprobs`."""
        return self.named + sum(GROUP_WIDTHS[group] for group in self.groups)

    def fits(self, rows: EngineRows) -> bool:
        """Whether rows hold what the request has asked for, and maybe more.

        They need not: in vLLM's own V1 sampler the longest `logprob_token_ids` of a step
        decides how many candidates all its rows have, and its rejection sampler appends no
        statistics.
        """
        return self._pieces(rows) is not None

    def narrowed(self, rows: EngineRows, concatenate: Concatenate) -> EngineRows | None:
        """The request's own columns: `named` of ids, `width` of log-probabilities.

        Returns:
            Views of the arrays where their columns stand side by side, else copies; None where
            the rows do not fit.
        """
        pieces = self._pieces(rows)
        if pieces is None:
            return None
        ids, logprobs, ranks = rows
        if logprobs.shape[1] == self.width:
            return rows
        own = tuple(logprobs[:, piece] for piece in pieces)
        return EngineRows(
            ids[:, : self.named], own[0] if len(own) == 1 else concatenate(own, 1), ranks
        )

    def _pieces(self, rows: EngineRows) -> tuple[slice, ...] | None:
        """Where the own columns stand in the log-probabilities; None where some are missing."""
        # Looked up for every token of every answer, and there are few shapes.
        shape = rows.ids.shape[1], rows.logprobs.shape[1]
        try:
            return self._known_pieces[shape]
        except KeyError:
            return self._known_pieces.setdefault(shape, self._find_pieces(*shape))

    @cached_property
    def _known_pieces(self) -> dict[tuple[int, int], tuple[slice, ...] | None]:
        return {}

    def _find_pieces(self, named: int, width: int) -> tuple[slice, ...] | None:
        if named < self.named or width < named:
            return None
        places = _places(named, _CARRIED.get(width - named, ()))
        if not all(group in places for group in self.groups):
            return None
        return (slice(0, self.named), *(places[group] for group in self.groups))

    def split(self, logprobs: Any) -> tuple[Any, Mapping[ColumnGroup, Any]]:
        """The log-probabilities of named tokens, and the columns of each group: views.

        Args:
            logprobs: (n, width), the request's own columns.
        """
        groups = {group: logprobs[:, place] for group, place in self._own_places.items()}
        return logprobs[:, : self.named], groups

    @cached_property
    def _own_places(self) -> dict[ColumnGroup, slice]:
        return _places(self.named, self.groups)


def joined(logprobs: Any, groups: Mapping[ColumnGroup, Any], concatenate: Concatenate) -> Any:
    """Log-probabilities of named tokens with column groups behind them: the inverse of `split`.

    Args:
        logprobs: (n, named).
        groups: (n, width of the group) each.
    """
    return concatenate((logprobs, *(groups[group] for group in ColumnGroup if group in groups)), 1)


def _places(named: int, groups: tuple[ColumnGroup, ...]) -> dict[ColumnGroup, slice]:
    """Where each group's columns stand in rows that name so many tokens and carry these groups."""
    places = {}
    start = named
    for group in groups:
        places[group] = slice(start, start + GROUP_WIDTHS[group])
        start += GROUP_WIDTHS[group]
    return places
