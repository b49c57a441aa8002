"""Who compares texts for the estimators: functions, models given by path, or the served model.

A judge is asked for ordered pairs (premise, hypothesis) and answers with the probabilities
of entailment, neutrality and contradiction. One that knows only a similarity s says
(s, 0, 1 - s).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from conf_server.backends.forcing import ForcingOptions, TextForcing
from conf_server.concurrency import Cancelled, in_thread, raise_if
from conf_server.serving.score_protocol import ScoreItem
from conf_server.uncertainty import prompts
from conf_server.uncertainty.pairs import from_similarities
from conf_server.uncertainty.prompts import LabelPrompt
from conf_server.uncertainty.words.overlap import rouge_l

Pair = tuple[str, str]
Verdicts = NDArray[np.float64]

Similarity = Callable[[Sequence[Pair], Callable[[], None]], Verdicts]

LINEAR_CHARACTERS: Final = 2**12
"""Two texts of a and b characters count as a·b / 4096 where their comparison is quadratic and
that is more than a + b: two equal ones of more than 8192 each."""


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
        is_chat: whether the model is asked through its chat template.
        request_id: prefix of engine requests.
        statistics: whether the workers can name tokens.
        advance: to be called as a pair is done, by judges that take their time.
    """

    question: str
    is_chat: bool
    request_id: str
    statistics: bool
    options: ForcingOptions
    chat_template: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    advance: Callable[[], None] = lambda: None
    notes: JudgeNotes = field(default_factory=JudgeNotes)

    def item(self, prompt: LabelPrompt) -> ScoreItem:
        """The prompt, with its labels as what may come next."""
        if self.is_chat:
            return ScoreItem(
                messages=[{"role": "user", "content": prompt.text}],
                completions=[label.strip() for label in prompt.labels],
                chat_template=self.chat_template,
                chat_template_kwargs=self.chat_template_kwargs,
            )
        return ScoreItem(prompt=prompt.text, completions=list(prompt.labels))


class Judge(ABC):
    """Compares texts.

    Attributes:
        symmetric: (a, b) and (b, a) get the same verdict.
    """

    symmetric: bool

    def characters(self, premise: int, hypothesis: int) -> int:
        """What two texts of these lengths count of --max-judged-characters."""
        return premise + hypothesis

    @abstractmethod
    async def judge(self, pairs: Sequence[Pair], context: JudgeContext) -> Verdicts:
        """(pairs, 3) probabilities of entail, neutral, contradict."""


class FunctionJudge(Judge):
    """A similarity that needs no model."""

    symmetric = True

    def __init__(self, similarity: Similarity) -> None:
        """
        Args:
            similarity: of pairs, (pairs,) in [0, 1]; it calls its second argument now and then,
                which raises when nobody waits any more.
        """
        self._similarity = similarity
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="similarity")

    async def judge(self, pairs: Sequence[Pair], context: JudgeContext) -> Verdicts:
        return await in_thread(self._threads, partial(self._all, pairs))

    def _all(self, pairs: Sequence[Pair], cancelled: Cancelled) -> Verdicts:
        return from_similarities(self._similarity(pairs, partial(raise_if, cancelled)))


class RougeLJudge(FunctionJudge):
    """`rouge_l`, whose work grows with the product of two lengths."""

    def __init__(self) -> None:
        super().__init__(rouge_l)

    def characters(self, premise: int, hypothesis: int) -> int:
        return max(premise + hypothesis, premise * hypothesis // LINEAR_CHARACTERS)


class ModelJudge(Judge):
    """A model in this process; one thread works on it, one batch after the other."""

    def __init__(self, model: Any) -> None:
        """
        Args:
            model: `symmetric`, and `judge(pairs, cancelled)`: (pairs, 3), and whether it has
                read all of every text.
        """
        self.symmetric = model.symmetric
        self._model = model
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="similarity-model")

    async def judge(self, pairs: Sequence[Pair], context: JudgeContext) -> Verdicts:
        verdicts: Verdicts
        verdicts, whole = await in_thread(self._thread, partial(self._model.judge, pairs))
        context.notes.cut |= not whole
        return verdicts


class SelfNliJudge(Judge):
    """The served model says whether one text follows from another: the log-probabilities of
    three labels after a prompt, one prefill a pair."""

    symmetric = False

    def __init__(self, forcing: TextForcing) -> None:
        self._forcing = forcing

    async def judge(self, pairs: Sequence[Pair], context: JudgeContext) -> Verdicts:
        def item(pair: Pair) -> ScoreItem:
            return context.item(prompts.self_nli(*pair, context.question))

        found = await self._forcing.labels(
            (partial(item, pair) for pair in pairs),
            context.statistics,
            f"{context.request_id}-nli",
            context.options,
            context.advance,
        )
        context.notes.prompt_tokens += sum(labels.num_tokens for labels in found)
        logprobs = np.array([labels.logprobs for labels in found], np.float64).reshape(-1, 3)
        return _softmax(logprobs)


def _softmax(logprobs: Verdicts) -> Verdicts:
    weights = np.exp(logprobs - logprobs.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)
