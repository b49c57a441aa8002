"""Where an answer ends by DeepConf's rule, by a look at the whole of it."""

from __future__ import annotations

import math
from collections.abc import Sequence

from conf_server.stats.early_stop import EarlyStop


def looked_up(rule: EarlyStop, confidences: Sequence[float]) -> int | None:
    """How many tokens the answer gets; None where it is not ended. Each window is added up anew."""
    for number in range(rule.min_tokens, len(confidences) + 1):
        finite = [value for value in confidences[:number] if math.isfinite(value)]
        last = finite[-rule.window :]
        if len(last) == rule.window and math.fsum(last) / rule.window < rule.below:
            return number
    return None
