"""How far apart is too far. docs/check.md has the measurements behind the limits."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from conf_server.check.compare import Difference

STATISTICS_MEAN: Final = 2.0
"""A statistic's mean may be so many times as far off as that of the text's own tokens.

Those are likely tokens; most of a vocabulary is not, and is rounded more coarsely. On the
embedded model the worst column is 1.1 (float32) to 1.8 (bfloat16) times as far off.
"""


@dataclass(frozen=True)
class Tolerance:
    """The limits of a `Difference`. What is equal to a limit is within it.

    The token statistics have no limits of their own, because their differences are expressed as
    differences of log-probabilities (see `reference_statistics.sensitivities`): where all
    log-probabilities of a row are within `max`, its statistics are too, the entropy to first
    order. The limit of their means is `STATISTICS_MEAN` times `mean`.

    Attributes:
        mean: of the mean difference of each text and kind, nats.
        max: of each token's difference, and of its regret, nats.
        agreement: least share of equal likeliest tokens over all texts of a kind.
    """

    mean: float
    max: float
    agreement: float

    def __str__(self) -> str:
        return f"mean {self.mean:g}, max {self.max:g}, argmax {self.agreement:.0%}"

    def exceeded(self, difference: Difference) -> str:
        """Why one text's rows are past the limits; empty where they are not."""
        found = [
            ("mean", difference.mean, self.mean),
            ("max", difference.max, self.max),
            ("regret", difference.regret, self.max),
        ]
        for column in difference.statistics:
            found.append((f"{column.name} mean", column.mean, STATISTICS_MEAN * self.mean))
            found.append((f"{column.name} max", column.max, self.max))
        parts = [
            f"{name} {value:.4g} > {limit:g}" for name, value, limit in found if not value <= limit
        ]
        return ", ".join(parts)

    def disagreement(self, difference: Difference) -> str:
        """Why the likeliest tokens of one kind differ too often; empty where they do not."""
        if difference.agreement >= self.agreement:
            return ""
        return f"argmax {difference.agreement:.1%} < {self.agreement:.0%}"


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
