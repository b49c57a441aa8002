"""Texts as token ids, ready for teacher forcing: rendered, tokenized, and checked."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

from conf_server.backends.base import Chat, Completion, ForcingItem, ForcingJob
from conf_server.backends.token_model import TokenModel
from conf_server.backends.tokenization import ContextEncoder
from conf_server.refusal import RefusalError, TooLongError
from conf_server.settings import ConfidenceSettings
from conf_server.stats.forced import ForcedText

TURN: Final = 65_536
"""Characters and token ids that a request may have encoded before others have their turn."""


@dataclass(frozen=True)
class _Text:
    """One text that is to be encoded: a context, and a completion after it.

    Attributes:
        completion: None for a context that is a text on its own.
        group: number of the context that it shares with others.
        end_token: what ends a completion that is finished.
    """

    context: ContextEncoder
    completion: Completion | None
    path: str
    group: int
    end_token: int | None
    size: int

    def job(self) -> ForcingJob:
        """The text as tokens."""
        if self.completion is None:
            return ForcingJob(self.context.followed_by([]), self.group, self.path)
        content = self.completion.content
        text = self.context.followed_by(content if isinstance(content, str) else list(content))
        finished = self.completion.finished
        if finished and self.end_token is not None:
            text = ForcedText([*text.token_ids, self.end_token], text.num_context)
        return ForcingJob(text, self.group, self.path, finished)


class TextEncoder:
    """Renders and tokenizes texts. One thread encodes for all requests, a few texts in turn."""

    def __init__(
        self, model: TokenModel, max_tokens: int = ConfidenceSettings.max_forced_tokens
    ) -> None:
        """
        Args:
            max_tokens: that all texts of one request, with their contexts, may have together.
        """
        self._model = model
        self._max_tokens = max_tokens
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="forcing-tokenizer")

    async def prepare(self, items: Iterable[ForcingItem]) -> list[ForcingJob]:
        """Render and tokenize every item, and check what came out.

        What cannot fit the model is refused before anything is encoded. Then a few texts are
        encoded at a time, so that other requests have their turn, and a caller that is cancelled
        ends the work.

        Raises:
            RefusalError: naming the field.
            TooLongError: a text does not fit the model, or all of them --max-forced-tokens.
        """
        items = list(items)
        for item in items:
            self._check_sizes(item)
        texts = iter(await self._texts(items))
        loop = asyncio.get_running_loop()
        jobs: list[ForcingJob] = []
        num_tokens = 0
        while some := await loop.run_in_executor(self._thread, self._encode_some, texts):
            jobs += some
            num_tokens += sum(len(job.text.token_ids) for job in some)
            if num_tokens > self._max_tokens:
                raise TooLongError(
                    some[-1].path,
                    f"more than {self._max_tokens} tokens up to here, each text with its context "
                    "(--max-forced-tokens).",
                )
        return jobs

    # Before anything is encoded.

    def _check_sizes(self, item: ForcingItem) -> None:
        context: str | Sequence[int] = item.rendered or ()
        if item.rendered is None and not isinstance(item.context, Chat):
            context = item.context.content
        if not item.completions:
            self._check_size(context, (), _context_path(item))
        for completion, path in zip(item.completions, item.paths, strict=True):
            self._check_size(context, completion.content, path)

    def _check_size(
        self, context: str | Sequence[int], completion: str | Sequence[int], path: str
    ) -> None:
        ids = sum(len(part) for part in (context, completion) if not isinstance(part, str))
        self._check_length(ids, path)
        chars = sum(len(part) for part in (context, completion) if isinstance(part, str))
        if chars > self._model.max_chars:
            raise TooLongError(
                path,
                f"{chars} characters with its context, more than {self._model.max_chars}, the most "
                f"that {self._model.max_len} tokens can have.",
            )

    def _check_length(self, count: int, path: str) -> None:
        limit = self._model.max_len - 1
        if count > limit:
            raise TooLongError(
                path,
                f"{count} tokens with its context, at most {limit} "
                "(one below the model's context length).",
            )

    # Contexts.

    async def _texts(self, items: Iterable[ForcingItem]) -> list[_Text]:
        groups: dict[Any, int] = {}
        texts = []
        for item in items:
            context = await self._context(item)
            end_token = await self._end_token(item)
            key = context if isinstance(context, str) else tuple(context)
            group = groups.setdefault(key, len(groups))
            special = isinstance(item.context, Chat) or item.context.add_special_tokens
            encoder = ContextEncoder(self._model.tokenizer, context, special)
            for completion, path in _completions(item):
                size = len(context) + (0 if completion is None else len(completion.content))
                texts.append(_Text(encoder, completion, path, group, end_token, size))
        return texts

    async def _context(self, item: ForcingItem) -> str | list[int]:
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

    # In the thread.

    def _encode_some(self, texts: Iterator[_Text]) -> list[ForcingJob]:
        """The next texts, until `TURN` is reached; empty where there are no more."""
        jobs: list[ForcingJob] = []
        size = 0
        for text in texts:
            job = text.job()
            self._check(job, text.completion is not None)
            jobs.append(job)
            size += text.size
            if size >= TURN:
                break
        return jobs

    def _check(self, job: ForcingJob, has_completion: bool) -> None:
        ids, vocabulary = job.text.token_ids, self._model.vocab_size
        if not (job.num_scored if has_completion else ids):
            raise RefusalError(job.path, "there are no tokens in it.")
        self._check_length(len(ids), job.path)
        if max(ids) >= vocabulary:
            raise RefusalError(
                job.path, f"token id {max(ids)} is outside the vocabulary of {vocabulary}."
            )


def _completions(item: ForcingItem) -> Iterable[tuple[Completion | None, str]]:
    """Completions and their fields; of a text on its own None, and the field of the context."""
    if not item.completions:
        return [(None, _context_path(item))]
    return zip(item.completions, item.paths, strict=True)


def _context_path(item: ForcingItem) -> str:
    return f"{item.path}{'messages' if isinstance(item.context, Chat) else 'prompt'}"
