"""What a judge is: who compares texts for the estimators.

A judge is asked for ordered pairs (premise, hypothesis) and answers with the probabilities
of entailment, neutrality and contradiction. One that knows only a similarity s says
(s, 0, 1 - s).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from conf_server.backends.base import Caller, Framing

Pair = tuple[str, str]
Verdicts = NDArray[np.float64]


@dataclass
class JudgeNotes:
    """What else is to be said of a judgement.

    Attributes:
        prompt_tokens: that the engine worked on for it.
        cut: texts were longer than what the judge reads.
    """

    prompt_tokens: int = 0
    cut: bool = False


@dataclass(frozen=True)
class JudgeContext:
    """The request that a judge works for.

    Attributes:
        question: what the texts answer.
        framing: how a question is put to the served model.
        caller: for whom the served model works.
        advance: to be called as a pair is done, by judges that take their time.
    """

    question: str
    framing: Framing
    caller: Caller
    advance: Callable[[], None] = lambda: None
    notes: JudgeNotes = field(default_factory=JudgeNotes)


class Judge(ABC):
    """Compares texts.

    Attributes:
        symmetric: (a, b) and (b, a) get the same verdict.
        asks_model: the served model is asked, by teacher forcing.
    """

    symmetric: bool
    asks_model: bool = False

    def characters(self, premise: int, hypothesis: int) -> int:
        """What two texts of these lengths count of --max-judged-characters."""
        return premise + hypothesis

    def overhead(self, question: str) -> int:
        """What each pair of texts counts of it besides, where the judge reads more than these."""
        return 0

    @abstractmethod
    async def judge(self, pairs: Sequence[Pair], context: JudgeContext) -> Verdicts:
        """(pairs, 3) probabilities of entail, neutral, contradict."""
