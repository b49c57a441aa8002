"""How far attention looks back at the context rather than at what has been generated."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def lookback_ratios(context_mass: NDArray[Any], num_context: int) -> NDArray[np.float64]:
    """The mean over n tokens of a completion of each head's lookback ratio, from 0 to 1.

    With A the mean weight of a token on the context's tokens, and B that on the completion's tokens
    up to itself, the ratio is A / (A + B): equation 1 of Lookback Lens (arXiv 2407.07071).

    Args:
        context_mass: (..., n, heads), how much of each token's attention goes to the context, of
            the completion's tokens from its first on; n >= 1.
        num_context: tokens of the context, at least 1.

    Returns:
        (..., heads).
    """
    mass = np.asarray(context_mass, np.float64)
    tokens = np.arange(1, mass.shape[-2] + 1)[:, None]
    context, new = mass / num_context, (1 - mass) / tokens
    return (context / (context + new)).mean(axis=-2)
