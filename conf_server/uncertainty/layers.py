"""Which layers of a model the methods look at. They are numbered from 0, N of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from conf_server.uncertainty.needs import Need


def middle(num_layers: int) -> int:
    """N // 2: attention's layer of `attention_score`, and the hidden states' of `eigenscore`."""
    return num_layers // 2


def middle_third(num_layers: int) -> range:
    """N // 3 to 2 N / 3, rounded up and included: RAUQ's layers (lm-polygraph 0.7.0).

    `middle` is one of them.
    """
    return range(num_layers // 3, min(-(-2 * num_layers // 3) + 1, num_layers))


ATTENTIVE: Final[Mapping[Need, Callable[[int], Sequence[int]]]] = {
    Need.SELF_ATTENTION: lambda num_layers: (middle(num_layers),),
    Need.ANSWER_ATTENTION: middle_third,
    Need.JUDGING_ATTENTION: range,
    Need.LOOKBACK_RATIOS: range,
}
"""For each need that asks for attention weights: the layers, of how many there are."""
