"""A sample of bounded size from a stream of any length."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, TypeVar

import numpy as np

Item = TypeVar("Item")

SEED: Final = 42
"""Of everything that is drawn in a fit, so that the same texts give the same fit."""


def reservoir(items: Iterable[Item], size: int, seed: int = SEED) -> list[Item]:
    """As many items as are wanted, each with equal probability: Vitter's algorithm R (1985).

    They come in their order where no more are there than are wanted.
    """
    draw = np.random.default_rng(seed)
    kept: list[Item] = []
    for number, item in enumerate(items):
        if number < size:
            kept.append(item)
        elif (place := int(draw.integers(number + 1))) < size:
            kept[place] = item
    return kept
