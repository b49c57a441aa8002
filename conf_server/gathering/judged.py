"""Evidence by comparing texts: a judge is asked for each distinct pair once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import accumulate, chain
from typing import Final

import numpy as np
from numpy.typing import NDArray

from conf_server.backends.base import Backend
from conf_server.gathering.metered import Stages
from conf_server.gathering.plan import ALTERNATIVES
from conf_server.gathering.task import Task
from conf_server.gathering.way import UnmetError
from conf_server.judges.base import JudgeContext, Verdicts
from conf_server.stats.trace import TraceRows
from conf_server.uncertainty import pairs as text_pairs
from conf_server.uncertainty.evidence import Alternatives, Generation, Judgements
from conf_server.uncertainty.needs import Need

DECODED_ROWS: Final = 256
"""Tokens, each with its alternatives, that are decoded in one go: a few milliseconds' work."""

CHARACTER_TOKENS: Final = 8
"""Tokens before those that decide what these are. One character is split over four at most."""


class TooMuchToJudgeError(UnmetError):
    """A judge would have to read more than the server allows."""


class Comparisons:
    """Asks the task's judge.

    Attributes:
        inexact: needs for which the judge has read the beginnings of texts only.
    """

    def __init__(self, task: Task, backend: Backend, stages: Stages) -> None:
        self.inexact: set[Need] = set()
        self._task = task
        self._backend = backend
        self._stages = stages
        self._characters = 0

    async def judgements(self, answer: Generation, samples: Sequence[Generation]) -> Judgements:
        """Of the answer and all samples, each with each.

        Raises:
            TooMuchToJudgeError: beyond --max-judged-characters, as everywhere here.
        """
        assert self._task.judge is not None
        texts = [answer.text, *(sample.text for sample in samples)]
        symmetric = self._task.judge.symmetric
        pairs = text_pairs.unique_pairs(texts, symmetric)
        verdicts = await self._judge(Need.JUDGEMENTS, [(texts[i], texts[j]) for i, j in pairs])
        return text_pairs.assemble(texts, pairs, verdicts, symmetric)

    async def answer_similarity(self, answer: Generation) -> NDArray[np.float64]:
        """Of the answer to itself without each of its tokens."""
        return (await self._token_similarities(Need.TOKEN_SIMILARITY, (answer,)))[0]

    async def sample_similarities(
        self, samples: Sequence[Generation]
    ) -> tuple[NDArray[np.float64], ...]:
        """The same of each sample."""
        return await self._token_similarities(Need.SAMPLE_TOKEN_SIMILARITY, samples)

    async def claims(self, rows: TraceRows) -> tuple[Alternatives, ...]:
        """Each token's likeliest alternatives, judged against it."""
        ids, logprobs = await asyncio.to_thread(_own_first, rows)
        decoded = await self._decoded(ids)
        pairs = await asyncio.to_thread(_alternative_pairs, decoded)
        verdicts = await self._judge(Need.CLAIMS, list(chain.from_iterable(pairs)))
        return await asyncio.to_thread(_alternatives, decoded, logprobs, pairs, verdicts)

    async def _decoded(self, rows: Sequence[Sequence[int]]) -> list[list[str]]:
        """Texts of an answer's tokens and their alternatives, a few at a time: those of a long
        answer would hold up all other requests."""
        texts: list[list[str]] = []
        for start in range(0, len(rows), DECODED_ROWS):
            before = [row[0] for row in rows[max(0, start - CHARACTER_TOKENS) : start]]
            texts += self._backend.decode(rows[start : start + DECODED_ROWS], before)
            await asyncio.sleep(0)
        return texts

    async def _token_similarities(
        self, need: Need, texts: Sequence[Generation]
    ) -> tuple[NDArray[np.float64], ...]:
        question = self._task.relevance_question
        # Before the copies are made: there is one of each text for each of its tokens.
        lead = len(question or "")
        self._counted(sum(2 * (lead + len(text.text)) * len(text.logprobs) for text in texts))
        compared = [text_pairs.relevance_pairs(text, question) for text in texts]
        pairs = list(chain.from_iterable(compared))
        changed = [pair for pair in pairs if pair[0] != pair[1]]
        verdicts = dict(zip(changed, await self._judge(need, changed), strict=True))
        similarities = np.array(
            [verdicts[pair][0] if pair in verdicts else 1.0 for pair in pairs], np.float64
        )
        borders = np.cumsum([len(parts) for parts in compared])[:-1]
        return tuple(np.split(similarities, borders))

    async def _judge(self, need: Need, pairs: Sequence[tuple[str, str]]) -> Verdicts:
        """Verdicts on pairs, each distinct one asked for once."""
        judge = self._task.judge
        assert judge is not None
        distinct = list(dict.fromkeys(pairs))
        if not distinct:
            return np.empty((0, 3))
        each = judge.overhead(self._task.question)
        self._characters = self._counted(
            sum(judge.characters(len(a), len(b)) + each for a, b in distinct)
        )
        with self._stages.stage(need, len(distinct)) as advance:
            context = JudgeContext(
                question=self._task.question,
                framing=self._task.framing,
                caller=self._task.caller.at(need),
                advance=advance,
            )
            verdicts = await judge.judge(distinct, context)
        if context.notes.prompt_tokens:
            self._stages.spend(need, context.notes.prompt_tokens)
        if context.notes.cut:
            self.inexact.add(need)
        place = {pair: i for i, pair in enumerate(distinct)}
        return verdicts[[place[pair] for pair in pairs]]

    def _counted(self, count: int) -> int:
        """Characters that have been compared for this request, and so many more."""
        total, limit = self._characters + count, self._task.max_judged_characters
        if total > limit:
            raise TooMuchToJudgeError(
                f"texts of {total} characters would have to be compared for this request, at most "
                f"{limit} (--max-judged-characters)"
            )
        return total


def _own_first(rows: TraceRows) -> tuple[list[list[int]], list[NDArray[np.floating]]]:
    """Ids and log-probabilities of each token and its likeliest alternatives."""
    ids, logprobs = [], []
    for own, logprob, others, values in zip(
        rows.token_ids, rows.logprobs, rows.candidate_ids, rows.candidate_logprobs, strict=True
    ):
        other = others != own
        ids.append([int(own), *others[other].tolist()][:ALTERNATIVES])
        logprobs.append(np.concatenate(([logprob], values[other]))[:ALTERNATIVES])
    return ids, logprobs


def _alternative_pairs(tokens: Sequence[Sequence[str]]) -> list[list[tuple[str, str]]]:
    return [text_pairs.alternative_pairs(row) for row in tokens]


def _alternatives(
    tokens: Sequence[Sequence[str]],
    logprobs: Sequence[NDArray[np.floating]],
    pairs: Sequence[Sequence[tuple[str, str]]],
    verdicts: Verdicts,
) -> tuple[Alternatives, ...]:
    """The verdicts are of all rows' pairs, one row's after the other's."""
    rows = zip(tokens, logprobs, pairs, accumulate(map(len, pairs)), strict=True)
    return tuple(
        text_pairs.assemble_alternatives(row, values, wanted, verdicts[stop - len(wanted) : stop])
        for row, values, wanted, stop in rows
    )
