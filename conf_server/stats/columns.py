"""The row of exact statistics that the engine computes for a token."""

import math
from enum import IntEnum
from typing import Final

MIN_DROP: Final = 0.005
"""By more than this the probability has to fall behind the last dominant token."""

MIN_RELATIVE_DROP: Final = 0.3
"""By more than this share of its own it has to fall there."""

MIN_LOG_DROP: Final = -math.log1p(-MIN_RELATIVE_DROP)
"""The same in nats: between the last dominant token and the next lies more than this."""

MAX_DOMINANT: Final = 199
"""No more tokens can be dominant, since each has a probability above `MIN_DROP`."""


class TokenStatistic(IntEnum):
    """The columns of a row of token statistics: float32, nats, p the softmax of V raw logits."""

    CONFIDENCE = 0
    """-(1/k) sum of the k largest log p. DeepConf (arXiv 2508.15260), section 2."""

    ENTROPY = 1
    """-sum p log p, with 0 log 0 = 0. lm-polygraph's MeanTokenEntropy averages it."""

    MEAN_LOGPROB = 2
    """(1/V) sum log p. Self-certainty (arXiv 2502.18581) is -MEAN_LOGPROB - log V."""

    LOG_SUM_P_HALF = 3
    """H = log sum p^(1/2). Below, softmax(log p / 2) = p^(1/2) / exp(H)."""

    LOG_SUM_P_QUARTER = 4
    """Q = log sum p^(1/4). With H it gives lm-polygraph 0.7.0's defaults, at temperature 2:

    RenyiNeg, alpha 0.5:  1/(alpha-1) (log sum s^alpha - (alpha-1) log V) = H - 2 Q - log V
    FisherRao:  (2/pi) arccos(sum s^(1/2) V^(-1/2)) = (2/pi) arccos(exp(Q - H/2 - log(V)/2))

    where s = softmax(log p / 2), so that sum s^(1/2) = exp(Q - H/2). Both are of arXiv 2212.09171;
    lm-polygraph averages them over tokens. Rounding can take arccos' argument past 1: clip it.
    """

    LOGPROB_1ST = 5
    """The largest log p."""

    LOGPROB_2ND = 6
    """The second largest log p, ties counted twice; -inf where V = 1."""

    LOG_DOMINANT_MASS = 7
    """log of the sum of the dominant tokens' p; -inf where no token is dominant.

    With p sorted, p_1 >= p_2 >= ..., the dominant tokens are the first i, where i is the last
    position with p_i - p_(i+1) > max(0.005, 0.3 p_i). BoostedProb (Dinh and Niehues, EMNLP
    2025, main.166), as the package boostedprob 0.1.3 computes it for lm-polygraph 0.7.0: the
    boosted probability of a token is this mass if it is dominant, else its own.
    """

    DOMINANT_LOGPROB = 8
    """log p of the least likely dominant token; +inf where no token is dominant.

    A token is dominant if its log p is no smaller. All others are smaller by more than
    `MIN_LOG_DROP`, so that half of that can be left for rounding.
    """


NUM_TOKEN_STATISTICS = len(TokenStatistic)
