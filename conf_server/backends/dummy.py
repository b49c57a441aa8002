"""A backend without a model, for tests.

A token is a word with the blank before it, and words are numbered as they are met. Word i has the
log-probability -(i + 1) / 10 wherever it stands; `dummy_numbers` says what else it has.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from conf_server.backends import base
from conf_server.backends.dummy_numbers import (
    CONFIDENCE,
    LIMITS,
    made_up_labels,
    made_up_rows,
    made_up_states,
)
from conf_server.backends.streaming import Piece
from conf_server.stats import forced
from conf_server.stats.early_stop import STOP_REASON, ConfidenceWindow, EarlyStop


@dataclass
class DummyBackend:
    """Answers by text of the prompt and number of the answer; notes what it is asked."""

    answer: Callable[[str, int], str]
    known: base.Limits = LIMITS
    asked: list[tuple[str, str, Any]] = field(default_factory=list)
    words: list[str] = field(default_factory=list)

    def limits(self) -> base.Limits:
        return self.known

    async def check(self, ask: base.Ask, caller: base.Caller) -> base.Rendered:
        self.asked.append(("check", caller.request_id, ask))
        messages = ask.prompt.messages if isinstance(ask.prompt, base.Chat) else ()
        turns = (base.Turn(message["role"], message["content"]) for message in messages)
        return base.Rendered(self.ids(_content(ask.prompt)), tuple(turns))

    async def generate(
        self, ask: base.Ask, wanted: forced.WantedRows, caller: base.Caller
    ) -> base.Answers:
        self.asked.append(("generate", caller.request_id, ask))
        prompt = str(_content(ask.prompt))
        texts = [self.answer(prompt, number) for number in range(ask.n)]
        rows = [made_up_rows(self.ids(text), wanted) for text in texts]
        made = tuple(map(base.Answer, texts, ["stop"] * ask.n, rows))
        return base.Answers(made, "dummy", len(self.ids(prompt)), sum(map(len, rows)))

    async def stream(
        self,
        ask: base.Ask,
        wanted: forced.WantedRows,
        caller: base.Caller,
        early_stop: EarlyStop | None = None,
    ) -> AsyncGenerator[Piece, None]:
        """A piece for each word; the answers take turns."""
        self.asked.append(("stream", caller.request_id, ask))
        prompt = str(_content(ask.prompt))
        answers = [self.ids(self.answer(prompt, number)) for number in range(ask.n)]
        windows = [ConfidenceWindow(early_stop) if early_stop else None for _ in answers]
        for place in range(max(map(len, answers))):
            for index, (ids, window) in enumerate(zip(answers, windows, strict=True)):
                if place >= len(ids):
                    continue
                rows = made_up_rows(ids[place : place + 1], wanted)
                ends, early = place + 1 == len(ids), None
                if window is not None and window.push(CONFIDENCE) and not ends:
                    ends, early = True, STOP_REASON
                    del ids[place + 1 :]
                yield Piece(index, self.words[ids[place]], rows, "stop" if ends else None, early)
                await asyncio.sleep(0)

    async def prepare(self, items: Iterable[base.ForcingItem]) -> list[base.ForcingJob]:
        jobs = []
        for group, item in enumerate(items):
            context = list(item.rendered or self.ids(_content(item.context)))
            texts = item.completions or [base.Completion(())]
            for given, path in zip(texts, item.paths or [f"{item.path}prompt"], strict=True):
                text = forced.ForcedText([*context, *self.ids(given.content)], len(context))
                jobs.append(base.ForcingJob(text, group, path, given.finished))
        return jobs

    async def force(
        self, jobs: Sequence[base.ForcingJob], wanted: forced.WantedRows, caller: base.Caller
    ) -> list[forced.ForcedRows]:
        self.asked.append(("force", caller.request_id, [job.path for job in jobs]))
        scored = [job.text.token_ids[job.text.first_scored :] for job in jobs]
        return [forced.ForcedRows(made_up_rows(ids, wanted), 0) for ids in scored]

    async def states(
        self, jobs: Sequence[base.ForcingJob], wanted: forced.WantedStates, caller: base.Caller
    ) -> list[forced.ForcedStates]:
        self.asked.append(("states", caller.request_id, wanted))
        return [made_up_states(job.text, wanted, self.known.hidden_size) for job in jobs]

    async def labels(
        self,
        questions: Iterable[Callable[[], base.LabelQuestion]],
        caller: base.Caller,
        advance: Callable[[], None] = lambda: None,
    ) -> list[forced.ForcedLabels]:
        made = [make() for make in questions]
        self.asked += [("labels", caller.request_id, question) for question in made]
        return [made_up_labels(len(question.labels)) for question in made]

    def decode(self, rows: Sequence[Sequence[int]], context: Sequence[int] = ()) -> list[list[str]]:
        return [[self.words[i] if i < len(self.words) else "?" for i in row] for row in rows]

    def text_of(self, token_ids: Sequence[int]) -> str:
        return "".join(self.words[i] for i in token_ids)

    def is_special(self, token_id: int) -> bool:
        return False

    def ids(self, text: str | Sequence[int]) -> list[int]:
        if not isinstance(text, str):
            return list(text)
        words = [f" {part}" if n else part for n, part in enumerate(text.split(" "))]
        self.words += [word for word in dict.fromkeys(words) if word not in self.words]
        return [self.words.index(word) for word in words]


def _content(prompt: base.Prompt) -> str | tuple[int, ...]:
    if isinstance(prompt, base.Plain):
        return prompt.content
    return "\n".join(str(message["content"]) for message in prompt.messages)
