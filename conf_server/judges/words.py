"""Judges that need no model: functions of the words that two texts share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final

from conf_server.concurrency import Cancelled, in_thread, raise_if
from conf_server.judges.base import Judge, JudgeContext, Pair, Verdicts
from conf_server.uncertainty.pairs import from_similarities
from conf_server.uncertainty.words.overlap import jaccard, rouge_l

Similarity = Callable[[Sequence[Pair], Callable[[], None]], Verdicts]

LINEAR_CHARACTERS: Final = 2**12
"""Two texts of a and b characters count as a·b / 4096 where their comparison is quadratic and
that is more than a + b: two equal ones of more than 8192 each."""


class WordsJudge(Judge):
    """A similarity of words."""

    symmetric = True

    def __init__(self, similarity: Similarity = jaccard) -> None:
        """
        Args:
            similarity: of pairs, (pairs,) in [0, 1]. It calls its second argument now and then,
                which raises when nobody waits any more.
        """
        self._similarity = similarity
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="similarity")

    async def judge(self, pairs: Sequence[Pair], context: JudgeContext) -> Verdicts:
        return await in_thread(self._threads, partial(self._all, pairs))

    def _all(self, pairs: Sequence[Pair], cancelled: Cancelled) -> Verdicts:
        return from_similarities(self._similarity(pairs, partial(raise_if, cancelled)))


class RougeLJudge(WordsJudge):
    """`rouge_l`, whose work grows with the product of two lengths."""

    def __init__(self) -> None:
        super().__init__(rouge_l)

    def characters(self, premise: int, hypothesis: int) -> int:
        return max(premise + hypothesis, premise * hypothesis // LINEAR_CHARACTERS)
