"""Texts on their way into teacher forcing: rendered, tokenized, checked, sent."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import chain, islice
from typing import Any, Final

from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.chat_completion.serving import OpenAIServingChat
from vllm.entrypoints.serve.engine.protocol import ErrorResponse
from vllm.exceptions import VLLMValidationError
from vllm.lora.request import LoRARequest

from conf_server.backends.tokenization import TextTooLongError, force_text, telling_length
from conf_server.concurrency import together
from conf_server.engine.client.teacher_forcing import (
    ForcedLabels,
    ForcedRows,
    ForcedText,
    WantedRows,
    force_labels,
    teacher_force,
)
from conf_server.engine.lora import scoring_obstacle
from conf_server.serving.score_protocol import ScoreItem

LABELS_IN_FLIGHT: Final = 64
"""Label requests that the engine sees at a time, of all clients together: thousands at once
would stand before everybody else's requests in its queue."""
QUEUE_SHARE: Final = 4
"""Of vLLM's --max-num-queued-reqs label requests take one part in so many."""


@dataclass(frozen=True)
class ForcingJob:
    """One completion to force.

    Attributes:
        text: tokens and border.
        group: number of the context it shares with others.
        path: the field it came from, for error messages.
    """

    text: ForcedText
    group: int
    path: str


@dataclass(frozen=True)
class ForcingOptions:
    """What all texts of one HTTP request share in the engine."""

    lora_request: LoRARequest | None = None
    cache_salt: str | None = None
    priority: int = 0
    trace_headers: Mapping[str, str] | None = None


class TextForcing:
    """Forces texts through the model that serves."""

    def __init__(self, chat: OpenAIServingChat) -> None:
        """Share engine, models and renderer with the chat handler."""
        self._engine = chat.engine_client
        self._model_config = chat.model_config
        self._models = chat.models
        self._online_renderer = chat.online_renderer
        # A tokenizer of our own, used by one thread: encoding a long item neither blocks
        # the event loop nor meets another thread inside the same tokenizer.
        self._tokenizer = copy.deepcopy(chat.renderer.tokenizer)
        self._encoder = ThreadPoolExecutor(1, thread_name_prefix="score-tokenizer")
        queued = self._engine.vllm_config.scheduler_config.max_num_queued_reqs
        most = LABELS_IN_FLIGHT if queued is None else max(1, queued // QUEUE_SHARE)
        self._labels_in_flight = min(LABELS_IN_FLIGHT, most)
        self._label_slots = asyncio.Semaphore(self._labels_in_flight)

    def obstacle(self) -> str | None:
        """Why this server cannot score at all."""
        if self._tokenizer is None:
            return "scoring needs a tokenizer: start without --skip-tokenizer-init"
        return scoring_obstacle(self._engine.vllm_config, self._models.lora_requests.values())

    @property
    def has_chat_template(self) -> bool:
        """Whether a question can be put to the model as a user's message."""
        own = getattr(self._tokenizer, "chat_template", None)
        return bool(self._online_renderer.chat_template or own)

    async def jobs(
        self, items: Iterable[tuple[str, ScoreItem]], names: Sequence[str] = ()
    ) -> list[ForcingJob] | ErrorResponse:
        """Render and tokenize every item, and check what came out.

        Args:
            items: each with the path of its fields, for error messages.
            names: of the fields that all the completions came from, where that is not an item.

        Raises:
            VLLMValidationError: naming the field; `TextTooLongError` where that is the reason.
        """
        contexts = await self._contexts(items)
        if isinstance(contexts, ErrorResponse):
            return contexts
        loop = asyncio.get_running_loop()
        jobs = await loop.run_in_executor(self._encoder, self._tokenize, contexts)
        if names:
            jobs = [replace(job, path=name) for job, name in zip(jobs, names, strict=True)]
        for job in jobs:
            self._check_tokens(job)
        return jobs

    async def _contexts(
        self, items: Iterable[tuple[str, ScoreItem]]
    ) -> list[tuple[str, ScoreItem, str | list[int]]] | ErrorResponse:
        contexts: list[tuple[str, ScoreItem, str | list[int]]] = []
        for path, item in items:
            context = item.prompt
            if item.messages is not None:
                chat = ChatCompletionRequest.model_validate(
                    {
                        "messages": item.messages,
                        "chat_template": item.chat_template,
                        "chat_template_kwargs": item.chat_template_kwargs,
                    }
                )
                rendered = await self.render(chat, path)
                if isinstance(rendered, ErrorResponse):
                    return rendered
                context = rendered
            assert context is not None
            contexts.append((path, item, context))
        return contexts

    async def render(
        self, chat: ChatCompletionRequest, path: str = ""
    ) -> list[int] | ErrorResponse:
        """Token ids of a chat, up to where its answer begins.

        Raises:
            VLLMValidationError: naming the field, with its path before it.
        """
        with telling_length():
            rendered = await self._online_renderer.render_chat(chat)
        if isinstance(rendered, ErrorResponse):
            return rendered
        _, (engine_input,) = rendered
        if engine_input["type"] != "token":
            raise VLLMValidationError(
                f"`{path}messages`: only text can be scored.", parameter=f"{path}messages"
            )
        return list(engine_input["prompt_token_ids"])

    def _tokenize(
        self, contexts: Iterable[tuple[str, ScoreItem, str | list[int]]]
    ) -> list[ForcingJob]:
        """Runs in the tokenizer's thread."""
        assert self._tokenizer is not None
        groups: dict[Any, int] = {}
        jobs = []
        for path, item, context in contexts:
            key = context if isinstance(context, str) else tuple(context)
            group = groups.setdefault(key, len(groups))
            for number, completion in enumerate(item.texts()):
                text = force_text(self._tokenizer, context, completion, item.add_special_tokens)
                suffix = "completion" if item.completions is None else f"completions.{number}"
                jobs.append(ForcingJob(text, group, path + suffix))
        return jobs

    def _check_tokens(self, job: ForcingJob) -> None:
        ids, limit = job.text.token_ids, self._model_config.max_model_len - 1
        if len(ids) == job.text.num_context:
            raise VLLMValidationError(f"`{job.path}` has no tokens.", parameter=job.path)
        if len(ids) > limit:
            raise TextTooLongError(
                f"`{job.path}`: {len(ids)} tokens with its context, at most {limit} "
                "(one below the model's context length).",
                parameter=job.path,
            )
        vocabulary = self._model_config.get_vocab_size()
        if max(ids) >= vocabulary:
            raise VLLMValidationError(
                f"`{job.path}`: token id {max(ids)} is outside the vocabulary of {vocabulary}.",
                parameter=job.path,
            )

    async def force(
        self,
        jobs: Sequence[ForcingJob],
        wanted: WantedRows,
        request_id: str,
        options: ForcingOptions,
    ) -> list[ForcedRows]:
        """Rows of all jobs; the first of a context runs ahead and fills the prefix cache.

        The cache holds whole blocks: a context below one block is not worth the wait.
        """
        block_size = self._engine.vllm_config.cache_config.block_size or 1
        computed: dict[int, asyncio.Event] = {}

        async def force(index: int, job: ForcingJob) -> ForcedRows:
            leads = job.group not in computed
            context = computed.setdefault(job.group, asyncio.Event())
            if job.text.num_context >= block_size and not leads:
                await context.wait()
            rows = await teacher_force(
                self._engine,
                job.text,
                wanted,
                f"{request_id}-{index}",
                **vars(options),
            )
            context.set()
            return rows

        return await together(*(force(*numbered) for numbered in enumerate(jobs)))

    async def labels(
        self,
        items: Iterable[Callable[[], ScoreItem]],
        statistics: bool,
        request_id: str,
        options: ForcingOptions,
        advance: Callable[[], None] = lambda: None,
    ) -> list[ForcedLabels]:
        """What the model thinks of each item's completions as its next word.

        Only the first token of a completion counts; those of one item have to differ. An item
        is made and rendered when its turn comes: thousands of them are a lot of tokens. No
        more of them queue than there are slots, so that requests take turns.

        Args:
            items: functions that make them.
            advance: called as each item is done.

        Raises:
            VLLMValidationError: two completions of an item begin with the same token.
            TextTooLongError: an item does not fit the model.
        """

        everything = enumerate(items)
        first = list(islice(everything, self._labels_in_flight))
        waiting = chain(first, everything)
        found: dict[int, ForcedLabels] = {}

        async def work() -> None:
            for number, item in waiting:
                async with self._label_slots:
                    found[number] = await self._labels(
                        item(), statistics, f"{request_id}-{number}", options
                    )
                advance()

        await together(*(work() for _ in first))
        return [found[number] for number in range(len(found))]

    async def _labels(
        self, item: ScoreItem, statistics: bool, request_id: str, options: ForcingOptions
    ) -> ForcedLabels:
        jobs = await self.jobs([("", item)])
        if isinstance(jobs, ErrorResponse):
            raise VLLMValidationError(jobs.error.message)
        texts = [job.text for job in jobs]
        context = texts[0].token_ids[: texts[0].num_context]
        first = _first_tokens(item, texts)
        return await force_labels(
            self._engine, context, first, statistics, request_id, **vars(options)
        )


def _first_tokens(item: ScoreItem, texts: Sequence[ForcedText]) -> list[int]:
    ids = [text.token_ids[text.num_context] for text in texts]
    if len(set(ids)) < len(ids):
        raise VLLMValidationError(
            f"The tokenizer does not tell {', '.join(map(repr, item.texts()))} apart "
            "by their first token."
        )
    return ids
