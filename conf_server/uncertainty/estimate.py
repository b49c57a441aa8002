"""What an estimator returns."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Estimate:
    """Uncertainty of an answer by one method.

    Attributes:
        value: higher = more uncertain, unless the method says otherwise (`Method.higher_is`).
            None where it is undefined (nothing could be read, or there is one sample where two
            are needed) or not finite.
        exact: False where the value is computed from less than its definition wants.
        details: what a person may want to see beside the value. It is plain JSON, without NaN
            or infinity.
    """

    value: float | None
    exact: bool = True
    details: dict[str, Any] | None = None


def estimate(value: float | None, **details: Any) -> Estimate:
    """An exact estimate; a value that is not finite becomes None."""
    finite = None if value is None or not math.isfinite(value) else float(value)
    return Estimate(finite, details=details or None)
