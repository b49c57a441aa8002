"""Probability of what is claimed, whatever the wording (arXiv 2403.04696)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from conf_server.uncertainty.estimate import Estimate, estimate
from conf_server.uncertainty.evidence import Alternatives, Evidence, Floats, required

_ENTAIL, _NEUTRAL, _CONTRADICT = range(3)
_BY_TIE: Final = np.array([_ENTAIL, _CONTRADICT, _NEUTRAL])
"""Which verdict wins where two are as likely: lm-polygraph's order."""


def claim_conditioned_probability(evidence: Evidence) -> Estimate:
    """-prod_t p(alternatives that mean the token's own) / p(those or their opposite), in [-1, 0].

    Alternatives that the judge finds neutral are left out of both sums: lm-polygraph's
    ClaimConditionedProbability. Where a token of the answer is part of a character, nothing is
    judged; its factor is then 1 and the estimate is not exact.
    """
    claims = required(evidence.claims, "alternatives of the answer's tokens")
    logprobs = np.concatenate([alternatives.logprobs for alternatives in claims])
    firsts = np.cumsum([0, *(len(alternatives.logprobs) for alternatives in claims[:-1])])
    verdicts = _combined(claims)
    verdicts[firsts] = _ENTAIL
    same = np.where(verdicts == _ENTAIL, logprobs, -np.inf)
    told_apart = np.where(verdicts != _NEUTRAL, logprobs, -np.inf)
    shares = np.logaddexp.reduceat(same, firsts) - np.logaddexp.reduceat(told_apart, firsts)
    found = estimate(-float(np.exp(shares.sum())))
    return replace(found, exact=all(alternatives.readable for alternatives in claims))


def _combined(claims: Sequence[Alternatives]) -> NDArray[np.int64]:
    """The verdict on each alternative from those of both directions.

    A neutral one gives way to the other; entailment against contradiction is neutral.
    """
    forward = _verdicts([alternatives.forward for alternatives in claims])
    backward = _verdicts([alternatives.backward for alternatives in claims])
    opposed = (forward != backward) & (forward != _NEUTRAL) & (backward != _NEUTRAL)
    return np.where(opposed, _NEUTRAL, np.where(forward == _NEUTRAL, backward, forward))


def _verdicts(judgements: Sequence[Floats]) -> NDArray[np.int64]:
    return _BY_TIE[np.concatenate(judgements)[:, _BY_TIE].argmax(axis=1)]
