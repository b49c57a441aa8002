"""Agreement of the samples' final answers (self-consistency, arXiv 2203.11171)."""

from __future__ import annotations

from collections import Counter

from conf_server.uncertainty.estimate import Estimate, estimate
from conf_server.uncertainty.evidence import Evidence, required


def consistency(evidence: Evidence) -> Estimate:
    """1 - share of all samples whose extracted answer is the commonest, in [0, 1).

    A sample without an extracted answer agrees with none; undefined where no sample has
    one. `details` names the commonest answer (of several the first) and its votes.
    """
    answers = required(evidence.extracted_answers, "the samples' extracted answers")
    votes = Counter(answer for answer in answers if answer is not None)
    if not votes:
        return estimate(None)
    answer, count = votes.most_common(1)[0]
    return estimate(1 - count / len(answers), answer=answer, votes=count)
