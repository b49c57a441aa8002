"""How methods stand to one another: which rank alike, which beat chance, which is the best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from conf_server.report.evaluation_metrics import levels_of
from conf_server.report.figures import MethodFigures
from conf_server.report.resampling import chance_of_the_best, percentile_interval

Floats = NDArray[np.float64]

RARE: Final = 0.05
"""The best of several methods beats chance where shuffled labels give as good a best one no more
often than this."""


@dataclass(frozen=True)
class Standing:
    """The methods of a file, sorted out.

    Attributes:
        ranked: methods with an AUROC, the best first; of those that rank alike the first.
        twins: by the name of a ranked method, the others that rank the answers as it does.
        constant: methods that have one value for all answers, and so rank nothing.
        unranked: methods without an AUROC for any other reason.
        level_with_best: methods whose AUROC the answers cannot tell from the best one's.
        chance: how often shuffled labels would give a best AUROC as high; None where there is no
            AUROC.
    """

    ranked: tuple[MethodFigures, ...]
    twins: dict[str, tuple[MethodFigures, ...]]
    constant: tuple[MethodFigures, ...]
    unranked: tuple[MethodFigures, ...]
    level_with_best: tuple[MethodFigures, ...]
    chance: float | None

    @property
    def best(self) -> MethodFigures | None:
        return self.ranked[0] if self.ranked else None

    @property
    def drawn(self) -> list[MethodFigures]:
        """Methods whose rankings can be held against each other."""
        return [one for one in (*self.ranked, *self.unranked) if one.values.size]

    @property
    def beats_chance(self) -> bool:
        """Whether the best method does, alone and as the best of as many."""
        if self.best is None or self.chance is None:
            return False
        return not is_at_chance(self.best) and self.chance <= RARE


def is_at_chance(method: MethodFigures) -> bool:
    """Whether the interval of its AUROC holds one half, or is missing."""
    interval = method.auroc.interval
    return interval is None or interval[0] <= 0.5 <= interval[1]


def is_inverted(method: MethodFigures) -> bool:
    """Whether its higher values go with right answers."""
    interval = method.auroc.interval
    return interval is not None and interval[1] < 0.5


def standing_of(methods: Sequence[MethodFigures], labels: Floats, seed: int) -> Standing:
    """Sort methods out.

    Args:
        methods: the best AUROC first.
        labels: (n,) whether the answers are correct: 1 yes, 0 no, NaN not known.
        seed: of the shuffles.
    """
    constant = tuple(one for one in methods if one.is_constant)
    others = [one for one in methods if not one.is_constant]
    ranked, twins = _without_twins([one for one in others if one.auroc.value is not None])
    return Standing(
        ranked=tuple(ranked),
        twins=twins,
        constant=constant,
        unranked=tuple(one for one in others if one.auroc.value is None),
        level_with_best=_level_with_best(ranked),
        chance=_chance(ranked, labels, seed),
    )


def _without_twins(
    methods: Sequence[MethodFigures],
) -> tuple[list[MethodFigures], dict[str, tuple[MethodFigures, ...]]]:
    """The first of the methods that rank alike, and the others by its name."""
    first: dict[bytes, MethodFigures] = {}
    twins: dict[str, tuple[MethodFigures, ...]] = {}
    for method in methods:
        kept = first.setdefault(_ranking(method.uncertainty), method)
        if kept is not method:
            twins[kept.name] = (*twins.get(kept.name, ()), method)
    return list(first.values()), twins


def _ranking(uncertainty: Floats) -> bytes:
    """What is equal for methods that put the same answers in the same order, ties included."""
    levels = np.full(uncertainty.size, -1, np.int64)
    present = ~np.isnan(uncertainty)
    levels[present] = levels_of(uncertainty[present])
    return levels.tobytes()


def _level_with_best(ranked: Sequence[MethodFigures]) -> tuple[MethodFigures, ...]:
    """Those whose difference from the best, over the same draws, has an interval that holds 0."""
    if not ranked:
        return ()
    found = []
    for other in ranked[1:]:
        interval = percentile_interval(ranked[0].auroc_draws - other.auroc_draws)
        if interval is None or interval[0] <= 0:
            found.append(other)
    return tuple(found)


def _chance(ranked: Sequence[MethodFigures], labels: Floats, seed: int) -> float | None:
    known = ~np.isnan(labels)
    if not ranked:
        return None
    return chance_of_the_best(
        [one.uncertainty[known] for one in ranked], labels[known] == 0, seed=seed
    )
