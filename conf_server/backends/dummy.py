"""A backend without a model, for tests.

A token is a word with the blank before it, and words are numbered as they are met. Word i has the
log-probability -(i + 1) / 10 wherever it stands, label i has -(i + 1) log 2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from conf_server.backends import base
from conf_server.stats.columns import NUM_TOKEN_STATISTICS
from conf_server.stats.forced import ForcedLabels, ForcedRows, ForcedText, WantedRows
from conf_server.stats.trace import TraceRows


@dataclass
class DummyBackend:
    """Answers by text of the prompt and number of the answer; notes what it is asked."""

    answer: Callable[[str, int], str]
    known: base.Limits = field(default_factory=lambda: base.Limits(64, 1000, 20, True))
    asked: list[tuple[str, str, Any]] = field(default_factory=list)
    words: list[str] = field(default_factory=list)

    def limits(self) -> base.Limits:
        return self.known

    async def check(self, ask: base.Ask, caller: base.Caller) -> base.Rendered:
        self.asked.append(("check", caller.request_id, ask))
        messages = ask.prompt.messages if isinstance(ask.prompt, base.Chat) else ()
        turns = (base.Turn(message["role"], message["content"]) for message in messages)
        return base.Rendered(self.ids(_text(ask.prompt)), tuple(turns))

    async def generate(
        self, ask: base.Ask, wanted: WantedRows, caller: base.Caller
    ) -> base.Answers:
        self.asked.append(("generate", caller.request_id, ask))
        prompt = _text(ask.prompt)
        texts = [self.answer(prompt, number) for number in range(ask.n)]
        rows = [self.rows(self.ids(text), wanted) for text in texts]
        made = tuple(map(base.Answer, texts, ["stop"] * ask.n, rows))
        return base.Answers(made, "dummy", len(self.ids(prompt)), sum(map(len, rows)))

    async def prepare(self, items: Iterable[base.ForcingItem]) -> list[base.ForcingJob]:
        jobs = []
        for group, item in enumerate(items):
            context = list(item.rendered or ())
            for given, path in zip(item.completions, item.paths, strict=True):
                text = ForcedText([*context, *self.ids(given.content)], len(context))
                jobs.append(base.ForcingJob(text, group, path, given.finished))
        return jobs

    async def force(
        self, jobs: Sequence[base.ForcingJob], wanted: WantedRows, caller: base.Caller
    ) -> list[ForcedRows]:
        self.asked.append(("force", caller.request_id, [job.path for job in jobs]))
        scored = [job.text.token_ids[job.text.first_scored :] for job in jobs]
        return [ForcedRows(self.rows(ids, wanted), 0) for ids in scored]

    async def labels(
        self,
        questions: Iterable[Callable[[], base.LabelQuestion]],
        caller: base.Caller,
        advance: Callable[[], None] = lambda: None,
    ) -> list[ForcedLabels]:
        made = [make() for make in questions]
        self.asked += [("labels", caller.request_id, question) for question in made]
        return [ForcedLabels(-np.log(2 ** (1.0 + np.arange(len(q.labels)))), 8, 0) for q in made]

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

    def rows(self, ids: Sequence[int], wanted: WantedRows) -> TraceRows:
        table = np.array([[i, *range(wanted.width)] for i in ids], np.int32)
        ones = np.ones((len(table), NUM_TOKEN_STATISTICS), np.float32)
        return TraceRows(table, -(table + 1) / 10, table[:, 0], ones if wanted.statistics else None)


def _text(prompt: base.Prompt) -> str:
    messages = prompt.messages if isinstance(prompt, base.Chat) else ({"content": prompt.content},)
    return "\n".join(str(message["content"]) for message in messages)
