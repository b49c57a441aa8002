"""Texts on their way into teacher forcing: rendered, tokenized, checked, and sent in turn.

What the engine is stands behind `TokenModel`. Everything here holds for any of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, islice
from typing import Any, Final, Protocol, TypeVar

from conf_server.backends.base import (
    Caller,
    Chat,
    Completion,
    ForcingItem,
    ForcingJob,
    LabelQuestion,
)
from conf_server.backends.tokenization import force_text
from conf_server.concurrency import together
from conf_server.refusal import RefusalError, TooLongError
from conf_server.stats.forced import (
    ForcedLabels,
    ForcedRows,
    ForcedStates,
    ForcedText,
    WantedRows,
    WantedStates,
)

LABELS_IN_FLIGHT: Final = 64
"""Label questions that the engine sees at a time, of all clients together. Thousands at once
would stand before everybody else's requests in its queue."""

Context = str | list[int]

_Forced = TypeVar("_Forced")


class TokenModel(Protocol):
    """A model that takes token ids.

    Attributes:
        tokenizer: of transformers' kind. One thread of this module uses it, so that encoding
            a long text neither blocks the event loop nor meets another thread in the tokenizer.
        max_len: most tokens of a forced text.
        vocab_size: V.
        block_size: tokens in a block of the prefix cache; a shorter context is never cached.
    """

    tokenizer: Any
    max_len: int
    vocab_size: int
    block_size: int

    async def render(self, chat: Chat, path: str) -> list[int]:
        """Token ids of a chat; errors name fields that begin with `path`."""
        ...

    async def end_token(self, context: Chat | None, path: str) -> int:
        """The token with which the model ends an answer, in a chat or without one."""
        ...

    async def force(self, text: ForcedText, wanted: WantedRows, caller: Caller) -> ForcedRows:
        """Teacher forcing of one text."""
        ...

    async def force_states(
        self, text: ForcedText, wanted: WantedStates, caller: Caller
    ) -> ForcedStates:
        """Hidden states of one text."""
        ...

    async def force_labels(
        self, context: list[int], labels: Sequence[int], caller: Caller
    ) -> ForcedLabels:
        """Log-probabilities of single tokens right after a context."""
        ...


class TextForcing:
    """Forces texts through a model."""

    def __init__(self, model: TokenModel, labels_in_flight: int = LABELS_IN_FLIGHT) -> None:
        self._model = model
        self._encoder = ThreadPoolExecutor(1, thread_name_prefix="forcing-tokenizer")
        self._labels_in_flight = labels_in_flight
        self._label_slots = asyncio.Semaphore(labels_in_flight)

    async def prepare(self, items: Iterable[ForcingItem]) -> list[ForcingJob]:
        """Render and tokenize every item, and check what came out.

        Raises:
            RefusalError: naming the field.
            TooLongError: a text does not fit the model.
        """
        contexts: list[tuple[ForcingItem, Context, int | None]] = []
        for item in items:
            context = await self._context(item)
            contexts.append((item, context, await self._end_token(item)))
        loop = asyncio.get_running_loop()
        jobs = await loop.run_in_executor(self._encoder, self._tokenize, contexts)
        for job in jobs:
            self._check_tokens(job)
        return jobs

    async def _context(self, item: ForcingItem) -> Context:
        if item.rendered is not None:
            return list(item.rendered)
        if isinstance(item.context, Chat):
            return await self._model.render(item.context, item.path)
        content = item.context.content
        return content if isinstance(content, str) else list(content)

    async def _end_token(self, item: ForcingItem) -> int | None:
        if not any(completion.finished for completion in item.completions):
            return None
        chat = item.context if isinstance(item.context, Chat) else None
        return await self._model.end_token(chat, item.path)

    def _tokenize(
        self, contexts: Iterable[tuple[ForcingItem, Context, int | None]]
    ) -> list[ForcingJob]:
        """Runs in the tokenizer's thread."""
        groups: dict[Any, int] = {}
        jobs = []
        for item, context, end_token in contexts:
            key = context if isinstance(context, str) else tuple(context)
            group = groups.setdefault(key, len(groups))
            special = isinstance(item.context, Chat) or item.context.add_special_tokens
            for completion, path in zip(item.completions, item.paths, strict=True):
                text = self._forced_text(context, completion, special, end_token)
                _refuse_without_tokens(len(text.token_ids) - text.num_context, path)
                jobs.append(ForcingJob(text, group, path, completion.finished))
            if not item.completions:
                text = self._forced_text(context, Completion(()), special, None)
                path = f"{item.path}{'messages' if isinstance(item.context, Chat) else 'prompt'}"
                _refuse_without_tokens(len(text.token_ids), path)
                jobs.append(ForcingJob(text, group, path))
        return jobs

    def _forced_text(
        self, context: Context, completion: Completion, special: bool, end_token: int | None
    ) -> ForcedText:
        content = completion.content
        ids = content if isinstance(content, str) else list(content)
        text = force_text(self._model.tokenizer, context, ids, special)
        if completion.finished and end_token is not None:
            return ForcedText([*text.token_ids, end_token], text.num_context)
        return text

    def _check_tokens(self, job: ForcingJob) -> None:
        ids, limit = job.text.token_ids, self._model.max_len - 1
        if len(ids) > limit:
            raise TooLongError(
                job.path,
                f"{len(ids)} tokens with its context, at most {limit} "
                "(one below the model's context length).",
            )
        vocabulary = self._model.vocab_size
        if max(ids) >= vocabulary:
            raise RefusalError(
                job.path,
                f"token id {max(ids)} is outside the vocabulary of {vocabulary}.",
            )

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
        of tokens. No more of them wait than there are slots, so that requests take turns.

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
        return await self._model.force_labels(context, ids, caller)


def _refuse_without_tokens(count: int, path: str) -> None:
    """
    Args:
        count: of the completion's tokens, or of a context's that is a text on its own.
    """
    if not count:
        raise RefusalError(path, "there are no tokens in it.")
