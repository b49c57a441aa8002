"""From which confidence on a trace may vote (DeepConf, arXiv 2508.15260, section 3.2)."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

import numpy as np


def threshold(min_confs: Sequence[float], keep_top: float) -> float:
    """The confidence that a share of traces reaches, with linear interpolation between traces.

    DeepConf's code has `np.percentile(min_confs, 100 - p)` with p = 100 * keep_top: its p of 10
    is "low", which keeps the surest tenth, and its p of 90 is "high". The share is taken as the
    decimal number that it is written as, so that 0.1 is the percentile 90 and not one beside it.

    Args:
        min_confs: `TraceScores.min_conf` of the traces, finite, in nats; a trace that has none
            (None) is left out by the caller. DeepConf's code has 0 for it.
        keep_top: share of the traces that are sure enough, in (0, 1]; 1 gives the lowest.

    Returns:
        The threshold in nats. A trace with `min_conf` below it is dropped.

    Raises:
        ValueError: there is no trace, one has no finite confidence, or the share is outside (0, 1].
    """
    if not 0 < keep_top <= 1:
        raise ValueError(f"keep_top must lie in (0, 1], got {keep_top}")
    values = np.asarray(min_confs, dtype=np.float64)
    if values.size == 0:
        raise ValueError("a threshold wants at least one trace")
    if not np.isfinite(values).all():
        raise ValueError("min_confs must be finite")
    percentile = 100 - 100 * Decimal(str(float(keep_top)))
    return float(np.percentile(values, float(percentile)))
