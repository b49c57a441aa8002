"""Seeded requests on CPU, where vLLM's V1 runner would end the engine.

A request whose prompt is computed in chunks is sampled at the end of each, and all but the
last sample are thrown away. The runner then turns the request's generator back by
`set_offset`, which CPU generators do not have. Here such samples come from a copy, and the
generator itself is out of the runner's sight while it turns back.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray

Generators = dict[int, torch.Generator]


def spared(generators: Generators, discarded: NDArray[np.bool_]) -> Generators:
    """The generators by row, with a copy in each row whose sample will be discarded."""
    return {
        row: _copy(generator) if discarded[row] else generator
        for row, generator in generators.items()
    }


@contextmanager
def hidden(generators: Generators, discarded: NDArray[np.bool_]) -> Iterator[None]:
    """Takes the discarded rows' generators out of the dictionary, and puts them back."""
    away = {row: generator for row, generator in generators.items() if discarded[row]}
    for row in away:
        del generators[row]
    try:
        yield
    finally:
        generators.update(away)


def _copy(generator: torch.Generator) -> torch.Generator:
    copy = torch.Generator(generator.device)
    copy.set_state(generator.get_state())
    return copy
