"""What stands between the handlers and the backend: it counts, names, and keeps templates out."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Final

from conf_server.backends.base import (
    Answers,
    Ask,
    Caller,
    Chat,
    ForcingItem,
    ForcingJob,
    LabelQuestion,
    Limits,
    Prompt,
    Rendered,
)
from conf_server.backends.streaming import Piece, StreamingBackend
from conf_server.refusal import RefusalError
from conf_server.settings import HIDDEN_STATES_OFF
from conf_server.small_server.request_metrics import TokenCounters
from conf_server.stats.early_stop import EarlyStop
from conf_server.stats.forced import (
    ForcedLabels,
    ForcedRows,
    ForcedStates,
    WantedRows,
    WantedStates,
)

_UNTRUSTED: Final = "the server takes none from requests (--trust-request-chat-template)."


class FrontBackend:
    """The backend of all handlers of one server. It is a `StreamingBackend`."""

    def __init__(
        self,
        backend: StreamingBackend,
        counters: TokenCounters,
        name: str,
        trusts_templates: bool,
        gives_states: bool,
    ) -> None:
        """
        Args:
            name: under which the model answers, whichever of its names a caller has used.
            trusts_templates: whether a request may bring a chat template, which is a program.
            gives_states: whether hidden states may be asked for.
        """
        self._backend = backend
        self._counters = counters
        self._name = name
        self._trusts_templates = trusts_templates
        self._gives_states = gives_states

    def limits(self) -> Limits:
        limits = self._backend.limits()
        return limits if self._gives_states else replace(limits, states=HIDDEN_STATES_OFF)

    async def check(self, ask: Ask, caller: Caller) -> Rendered:
        self._check_template(ask.prompt, "")
        return await self._backend.check(ask, caller)

    async def generate(self, ask: Ask, wanted: WantedRows, caller: Caller) -> Answers:
        self._check_template(ask.prompt, "")
        made = await self._backend.generate(ask, wanted, caller)
        self._counters.prompt.inc(made.prompt_tokens)
        self._counters.generated.inc(made.completion_tokens)
        return replace(made, model=self._name)

    async def stream(
        self,
        ask: Ask,
        wanted: WantedRows,
        caller: Caller,
        early_stop: EarlyStop | None = None,
    ) -> AsyncGenerator[Piece, None]:
        self._check_template(ask.prompt, "")
        async with aclosing(self._backend.stream(ask, wanted, caller, early_stop)) as pieces:
            async for piece in pieces:
                self._counters.generated.inc(len(piece.rows))
                yield piece

    async def prepare(self, items: Iterable[ForcingItem]) -> list[ForcingJob]:
        items = list(items)
        for item in items:
            self._check_template(item.context, item.path)
        return await self._backend.prepare(items)

    async def force(
        self, jobs: Sequence[ForcingJob], wanted: WantedRows, caller: Caller
    ) -> list[ForcedRows]:
        found = await self._backend.force(jobs, wanted, caller)
        self._counters.scored.inc(_count(jobs))
        return found

    async def states(
        self, jobs: Sequence[ForcingJob], wanted: WantedStates, caller: Caller
    ) -> list[ForcedStates]:
        found = await self._backend.states(jobs, wanted, caller)
        self._counters.scored.inc(_count(jobs))
        return found

    async def labels(
        self,
        questions: Iterable[Callable[[], LabelQuestion]],
        caller: Caller,
        advance: Callable[[], None] = lambda: None,
    ) -> list[ForcedLabels]:
        found = await self._backend.labels(questions, caller, advance)
        self._counters.scored.inc(sum(one.num_tokens for one in found))
        return found

    def decode(self, rows: Sequence[Sequence[int]], context: Sequence[int] = ()) -> list[list[str]]:
        return self._backend.decode(rows, context)

    def text_of(self, token_ids: Sequence[int]) -> str:
        return self._backend.text_of(token_ids)

    def is_special(self, token_id: int) -> bool:
        return self._backend.is_special(token_id)

    def _check_template(self, prompt: Prompt, path: str) -> None:
        if isinstance(prompt, Chat) and prompt.template is not None and not self._trusts_templates:
            raise RefusalError(f"{path}chat_template", _UNTRUSTED)


def _count(jobs: Sequence[ForcingJob]) -> int:
    return sum(len(job.text.token_ids) for job in jobs)
