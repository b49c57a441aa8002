"""Seeded requests on CPU, where vLLM's V1 runner would end the engine.

A request whose prompt is computed in chunks is sampled at the end of each, and all but the
last sample are thrown away. The runner then turns the request's generator back by
`set_offset`, which CPU generators do not have. Here such samples are drawn without the
generator, and the runner does not find it when it turns back.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray


@contextmanager
def hidden(generators: dict[int, torch.Generator], discarded: NDArray[np.bool_]) -> Iterator[None]:
    """Takes the discarded rows' generators out of the dictionary, and puts them back."""
    away = {row: generator for row, generator in generators.items() if discarded[row]}
    for row in away:
        del generators[row]
    try:
        yield
    finally:
        generators.update(away)
