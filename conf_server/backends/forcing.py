"""Texts on their way into teacher forcing: rendered, tokenized, checked, and sent in turn.

What the engine is stands behind `TokenModel`. Everything here holds for any of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from itertools import chain, islice
from typing import Final, TypeVar

from conf_server.backends.base import (
    Caller,
    Completion,
    ForcingItem,
    ForcingJob,
    LabelQuestion,
)
from conf_server.backends.text_encoding import TextEncoder
from conf_server.backends.token_model import TokenModel
from conf_server.concurrency import Budget, together
from conf_server.refusal import RefusalError
from conf_server.settings import ConfidenceSettings
from conf_server.stats.forced import (
    ForcedLabels,
    ForcedRows,
    ForcedStates,
    WantedRows,
    WantedStates,
)

LABELS_IN_FLIGHT: Final = 64
"""Label questions that the engine sees at a time, of all clients together. Thousands at once
would stand before everybody else's requests in its queue."""

LABEL_TOKENS: Final = 1024
"""Tokens that these questions may have together, unless a backend knows better."""

_Forced = TypeVar("_Forced")


class TextForcing:
    """Forces texts through a model."""

    def __init__(
        self,
        model: TokenModel,
        labels_in_flight: int = LABELS_IN_FLIGHT,
        label_tokens: int = LABEL_TOKENS,
        max_tokens: int = ConfidenceSettings.max_forced_tokens,
    ) -> None:
        """
        Args:
            labels_in_flight: label questions that the engine sees at a time.
            label_tokens: that these may have together; one with more is asked alone.
            max_tokens: that all texts of one request, with their contexts, may have together.
        """
        self._model = model
        self._encoder = TextEncoder(model, max_tokens)
        self._labels_in_flight = labels_in_flight
        self._label_slots = asyncio.Semaphore(labels_in_flight)
        self._label_tokens = Budget(label_tokens)

    async def prepare(self, items: Iterable[ForcingItem]) -> list[ForcingJob]:
        """Render and tokenize every item, and check what came out: see `TextEncoder.prepare`."""
        return await self._encoder.prepare(items)

    async def force(
        self, jobs: Sequence[ForcingJob], wanted: WantedRows, caller: Caller
    ) -> list[ForcedRows]:
        """Rows of all jobs. The first of a context runs ahead and fills the prefix cache.

        The cache holds whole blocks: a context shorter than one is not worth the wait.
        """

        async def force(index: int, job: ForcingJob) -> ForcedRows:
            return await self._model.force(job.text, wanted, caller.at(str(index)))

        return await self._contexts_first(jobs, force)

    async def states(
        self, jobs: Sequence[ForcingJob], wanted: WantedStates, caller: Caller
    ) -> list[ForcedStates]:
        """Hidden states of all jobs; where the completion alone counts, as `force` does it.

        Raises:
            RefusalError: naming a text of which no token counts.
        """
        for job in jobs:
            if wanted.completion_only and not job.num_scored:
                raise RefusalError(job.path, "there is no completion, whose tokens alone count.")

        async def states(index: int, job: ForcingJob) -> ForcedStates:
            return await self._model.force_states(job.text, wanted, caller.at(str(index)))

        if wanted.completion_only:
            return await self._contexts_first(jobs, states)
        return await together(*(states(*numbered) for numbered in enumerate(jobs)))

    async def _contexts_first(
        self, jobs: Sequence[ForcingJob], work: Callable[[int, ForcingJob], Awaitable[_Forced]]
    ) -> list[_Forced]:
        computed: dict[int, asyncio.Event] = {}

        async def in_turn(index: int, job: ForcingJob) -> _Forced:
            leads = job.group not in computed
            context = computed.setdefault(job.group, asyncio.Event())
            if job.text.num_context >= self._model.block_size and not leads:
                await context.wait()
            found = await work(index, job)
            context.set()
            return found

        return await together(*(in_turn(*numbered) for numbered in enumerate(jobs)))

    async def labels(
        self,
        questions: Iterable[Callable[[], LabelQuestion]],
        caller: Caller,
        advance: Callable[[], None] = lambda: None,
    ) -> list[ForcedLabels]:
        """What the model thinks of each question's labels as its next word.

        A question is made and rendered when its turn comes, because thousands of them are a lot
        of tokens. No more of them wait than there are slots, so that requests take turns, and the
        engine sees no more of their tokens at a time than it computes in half a step.

        Raises:
            RefusalError: two labels of a question begin with the same token.
            TooLongError: a question does not fit the model.
        """
        everything = enumerate(questions)
        first = list(islice(everything, self._labels_in_flight))
        waiting = chain(first, everything)
        found: dict[int, ForcedLabels] = {}

        async def work() -> None:
            for number, question in waiting:
                async with self._label_slots:
                    found[number] = await self._labels(question(), caller.at(str(number)))
                advance()

        await together(*(work() for _ in first))
        return [found[number] for number in range(len(found))]

    async def _labels(self, question: LabelQuestion, caller: Caller) -> ForcedLabels:
        labels = tuple(Completion(label) for label in question.labels)
        item = ForcingItem(question.prompt, labels, "", ("",) * len(labels))
        texts = [job.text for job in await self.prepare([item])]
        ids = [text.token_ids[text.num_context] for text in texts]
        if len(set(ids)) < len(ids):
            raise RefusalError(
                None,
                f"The tokenizer does not tell {', '.join(map(repr, question.labels))} apart "
                "by their first token.",
            )
        context = texts[0].token_ids[: texts[0].num_context]
        async with self._label_tokens.spent(len(context) + 1):
            return await self._model.force_labels(context, ids, caller)


class ReadsTexts:
    """The part of a backend that reads texts which somebody else wrote, by a `TextForcing`."""

    _forcing: TextForcing

    async def prepare(self, items: Iterable[ForcingItem]) -> list[ForcingJob]:
        return await self._forcing.prepare(items)

    async def force(
        self, jobs: Sequence[ForcingJob], wanted: WantedRows, caller: Caller
    ) -> list[ForcedRows]:
        return await self._forcing.force(jobs, wanted, caller)

    async def states(
        self, jobs: Sequence[ForcingJob], wanted: WantedStates, caller: Caller
    ) -> list[ForcedStates]:
        return await self._forcing.states(jobs, wanted, caller)

    async def labels(
        self,
        questions: Iterable[Callable[[], LabelQuestion]],
        caller: Caller,
        advance: Callable[[], None] = lambda: None,
    ) -> list[ForcedLabels]:
        return await self._forcing.labels(questions, caller, advance)
