"""Keeping seeded requests on CPU from ending the engine, a fault of vLLM's V1 runner.

When a prompt is computed in chunks, the runner samples a token after each chunk and discards all
but the last one. After a discarded token it resets the request's random generator with
`set_offset`, a method that CPU generators lack. While a request's generator is hidden, its
tokens are drawn without it, and the runner finds nothing to reset.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray


@contextmanager
def hidden(generators: dict[int, torch.Generator], discarded: NDArray[np.bool_]) -> Iterator[None]:
    """Take the generators of discarded rows out of the dictionary for as long as the context.

    Args:
        generators: by row of the batch; changed in place.
        discarded: (rows,) whether a row's token will be discarded.
    """
    away = {row: generator for row, generator in generators.items() if discarded[row]}
    for row in away:
        del generators[row]
    try:
        yield
    finally:
        generators.update(away)
