"""How far apart is too far. docs/check.md has the measurements behind the limits."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from conf_server.check.compare import Difference

SINGLE_TEXT: Final = 2.0
"""The mean of one text alone may be so many times as far off as that of all texts of a kind.

Unlikely tokens are rounded more coarsely than likely ones, and one text may be made of them.
"""

STATISTICS: Final = 2.0
"""The mean of a statistic may be so many times as far off as that of the text's own tokens.

A text's tokens are likely ones. Most of a vocabulary is not, and statistics are of all of it.
"""


@dataclass(frozen=True)
class Tolerance:
    """The limits of a `Difference`. What is equal to a limit is within it.

    The token statistics have no limits of their own, because their differences are expressed as
    differences of log-probabilities (see `reference_statistics.sensitivities`): where all
    log-probabilities of a row are within `max`, its statistics are too, the entropy to first
    order. `SINGLE_TEXT` and `STATISTICS` multiply the limit of means.

    Attributes:
        mean: the limit of the mean difference over all texts of a kind, in nats.
        max: the limit of each token's difference and of its regret, in nats.
        agreement: the least share of equal likeliest tokens over all texts of a kind.
    """

    mean: float
    max: float
    agreement: float

    def __str__(self) -> str:
        return f"mean {self.mean:g}, max {self.max:g}, argmax {self.agreement:.0%}"

    def exceeded(self, difference: Difference) -> str:
        """Why the rows of one text are past the limits; empty where they are not."""
        mean = SINGLE_TEXT * self.mean
        found = [
            ("mean", difference.mean, mean),
            ("max", difference.max, self.max),
            ("regret", difference.regret, self.max),
        ]
        for column in difference.statistics:
            found.append((f"{column.name} mean", column.mean, STATISTICS * mean))
            found.append((f"{column.name} max", column.max, self.max))
        return ", ".join(_past(found))

    def exceeded_together(self, difference: Difference) -> str:
        """Why all rows of one kind, taken together, are past the limits; empty where they are not.

        The limits of single tokens are `exceeded`'s.
        """
        found = [("mean", difference.mean, self.mean)]
        for column in difference.statistics:
            found.append((f"{column.name} mean", column.mean, STATISTICS * self.mean))
        parts = _past(found)
        if difference.agreement < self.agreement:
            parts.append(f"argmax {difference.agreement:.1%} < {self.agreement:.0%}")
        return ", ".join(parts)


def _past(found: list[tuple[str, float, float]]) -> list[str]:
    """Those values that are not within their limits; a value that is not a number never is."""
    return [f"{name} {value:.4g} > {limit:g}" for name, value, limit in found if not value <= limit]


BY_DTYPE: Final = {
    "float32": Tolerance(mean=1e-3, max=1e-2, agreement=0.99),
    "float16": Tolerance(mean=0.03, max=0.3, agreement=0.95),
    "bfloat16": Tolerance(mean=0.1, max=1.0, agreement=0.9),
}

QUANTIZED: Final = Tolerance(mean=0.5, max=5.0, agreement=0.75)
"""Against the original weights: what is lost on purpose, whatever the dtype of activations."""


def tolerance_for(dtype: str, quantization: str | None, **given: float | None) -> Tolerance:
    """The limits for an engine.

    Args:
        dtype: of its activations; an unknown one gets bfloat16's.
        quantization: of its weights, None for none.
        given: the user's own, by field of `Tolerance`; None keeps the default.
    """
    default = QUANTIZED if quantization else BY_DTYPE.get(dtype, BY_DTYPE["bfloat16"])
    return replace(default, **{name: limit for name, limit in given.items() if limit is not None})
