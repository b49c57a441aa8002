"""From a task to `Evidence`.

A backend is asked for no more than the chosen methods need, and for nothing twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from conf_server.backends.base import (
    Answer,
    Answers,
    Ask,
    Backend,
    Completion,
    ForcingBackend,
    ForcingItem,
    ForcingJob,
    Plain,
)
from conf_server.backends.paired import Side, side_of
from conf_server.concurrency import together
from conf_server.gathering.asked import UNTRUNCATED, Questions
from conf_server.gathering.inner import InnerStates
from conf_server.gathering.judged import Comparisons
from conf_server.gathering.metered import Stages
from conf_server.gathering.plan import ALTERNATIVES, all_asks
from conf_server.gathering.task import Task
from conf_server.gathering.way import UnmetError, Way
from conf_server.refusal import TooLongError
from conf_server.stats.forced import WantedRows
from conf_server.stats.trace import TokenTrace, TraceRows
from conf_server.uncertainty.evidence import Evidence, Generation
from conf_server.uncertainty.needs import Asks, Need
from conf_server.uncertainty.parsing import extract_answer

_HIDDEN = "the tokens do not add up to the text: some are hidden, or are no text"


@dataclass(frozen=True)
class Gathered:
    """All that is known in the end.

    Attributes:
        samples: beside `evidence.samples`.
        missing: needs that this answer could not meet, and why.
        inexact: needs met with less: by a judge that read the beginnings of texts only, or by
            log-probabilities of what a grammar allowed.
        model: the name under which the model has answered; None where it was not asked.
    """

    evidence: Evidence
    answer: Answer
    samples: tuple[Answer, ...]
    missing: Mapping[Need, str]
    inexact: frozenset[Need]
    model: str | None


class Gatherer:
    """Works on one `Task`."""

    def __init__(self, task: Task, backend: Backend, stages: Stages) -> None:
        self._task = task
        self._backend = backend
        self._stages = stages
        self._questions = Questions(task, backend, stages)
        self._comparisons = Comparisons(task, backend, stages)
        self._inner = InnerStates(task, backend, stages)
        self._missing: dict[Need, str] = {}
        self._inexact: set[Need] = set()
        self._model: str | None = None

    async def gather(self) -> Gathered:
        """Answer and samples first, all at once; then what is asked about them, all at once.

        Raises:
            RefusalError: the model refuses one of the requests.
        """
        asked = self._questions
        answer, samples, stated = await together(
            self._answer(),
            self._samples(),
            self._meet(
                {
                    Need.VERBALIZED_1S: asked.verbalized_1s,
                    Need.LINGUISTIC_1S: asked.linguistic_1s,
                }
            ),
        )
        text = self._generation(answer, Need.TOKEN_SIMILARITY, Need.CLAIMS)
        texts = tuple(self._generation(s, Need.SAMPLE_TOKEN_SIMILARITY) for s in samples)
        self._missing |= self._inner.missing()
        ways = {**self._ways(answer, text, texts), **self._inner.ways(answer, samples)}
        found = await self._meet(ways)
        evidence = Evidence(
            answer=text,
            samples=texts,
            vocab_size=self._task.vocab_size,
            is_instruct=self._backend.limits().has_chat_template,
            rauq_alpha=self._task.rauq_alpha,
            fitted=self._task.fitted,
            **stated,
            **found,
        )
        inexact = frozenset(self._inexact | self._comparisons.inexact)
        return Gathered(evidence, answer, tuple(samples), self._missing, inexact, self._model)

    def _ways(
        self, answer: Answer, text: Generation, samples: tuple[Generation, ...]
    ) -> dict[Need, Way]:
        """How to come by what is asked about answer and samples."""
        asked, compared = self._questions, self._comparisons
        return {
            Need.UNCONDITIONAL: partial(self._unconditional, answer.rows),
            Need.JUDGEMENTS: partial(compared.judgements, text, samples),
            Need.TOKEN_SIMILARITY: partial(compared.answer_similarity, text),
            Need.SAMPLE_TOKEN_SIMILARITY: partial(compared.sample_similarities, samples),
            Need.CLAIMS: partial(compared.claims, answer.rows),
            Need.P_TRUE: partial(asked.p_true, text),
            Need.P_TRUE_SAMPLING: partial(asked.p_true_sampling, text, samples),
            Need.P_TRUE_SAMPLES: partial(asked.p_true_samples, text),
            Need.VERBALIZED_2S: partial(asked.verbalized_2s, text),
            Need.EXTRACTED_ANSWERS: partial(self._extracted, samples),
        }

    async def _meet(self, ways: Mapping[Need, Way]) -> dict[str, Any]:
        """Fields of `Evidence`: of the needs that there are, those that can be met."""
        wanted = [need for need in ways if need in self._task.needs and need not in self._missing]
        found = await together(*(self._if_it_fits(need, ways[need]) for need in wanted))
        return {need.field: value for need, value in zip(wanted, found, strict=True)}

    async def _if_it_fits(self, need: Need, way: Way) -> Any:
        """A prompt of ours, with answers in it, may outgrow the model when the client's does
        not: the methods that need it are then unavailable, and the others are not lost."""
        try:
            return await way()
        except TooLongError as error:
            self._missing[need] = f"a prompt that it asks is too long: {error}"
        except UnmetError as error:
            self._missing[need] = str(error)
        return None

    # The answer and the samples.

    async def _answer(self) -> Answer:
        """The greedy answer, or the client's."""
        task = self._task
        candidates = self._candidates()
        with self._stages.stage("answer"):
            if task.answer is not None:
                (rows,) = await self._force("answer", task.given[:1], candidates)
                return Answer(task.answer, self._given_reason(0), rows)
            ask = replace(task.ask, n=1, temperature=0.0)
            made = await self._generate("answer", ask, candidates)
            if made.masked:
                self._inexact |= {Need.ANSWER_LOGPROBS, Need.CLAIMS}
                if task.head is not None and task.head.top_n:
                    self._inexact.add(Need.UHEAD)
            return made.answers[0]

    def _candidates(self) -> int:
        """How many of the likeliest tokens have to be named at each of the answer's."""
        task = self._task
        of_claims = ALTERNATIVES if Asks.CANDIDATES in all_asks(task.needs) else 0
        of_head = task.head.top_n if task.head is not None and Need.UHEAD in task.needs else 0
        return max(of_claims, of_head)

    async def _samples(self) -> Sequence[Answer]:
        """Samples at the client's temperature, or the client's."""
        task = self._task
        if Asks.SAMPLES not in all_asks(task.needs):
            return ()
        with self._stages.stage("samples", task.n_samples):
            if task.samples:
                return await self._given_samples()
            options = {**UNTRUNCATED, **_set(task.ask.options)}
            made = await self._generate("samples", replace(task.ask, options=options), 0)
            if made.masked:
                self._inexact.add(Need.SAMPLE_LOGPROBS)
            return made.answers

    async def _given_samples(self) -> Sequence[Answer]:
        texts = self._task.samples
        if Need.SAMPLE_LOGPROBS in self._task.needs:
            rows = await self._force("samples", self._task.given[1:], 0)
            return [
                Answer(text, self._given_reason(i), row)
                for i, (text, row) in enumerate(zip(texts, rows, strict=True), 1)
            ]
        nothing = TokenTrace(0).all()
        return [
            Answer(text, self._given_reason(i), nothing, scored=False)
            for i, text in enumerate(texts, 1)
        ]

    def _given_reason(self, index: int) -> str | None:
        """A text that the client calls finished ended as an answer does."""
        return "stop" if self._task.given[index].finished else None

    async def _generate(self, stage: str, ask: Ask, candidates: int) -> Answers:
        made = await self._backend.generate(
            ask, self._wanted(candidates), self._task.caller.at(stage)
        )
        self._stages.spend(stage, made.prompt_tokens, made.completion_tokens)
        self._model = made.model
        return made

    async def _force(
        self,
        stage: str,
        jobs: Sequence[ForcingJob],
        candidates: int,
        backend: ForcingBackend | None = None,
    ) -> list[TraceRows]:
        forced = await (backend or self._backend).force(
            jobs, self._wanted(candidates), self._task.caller.at(stage)
        )
        self._stages.spend(stage, sum(len(job.text.token_ids) for job in jobs))
        return [result.rows for result in forced]

    def _wanted(self, candidates: int) -> WantedRows:
        return WantedRows(self._task.top_k, candidates, statistics=self._task.statistics)

    # What estimators read of them.

    def _generation(self, answer: Answer, *of_tokens: Need) -> Generation:
        """The answer for estimators, with its tokens' texts if one of the needs wants them."""
        rows, tokens = answer.rows, None
        wanted = self._task.needs & set(of_tokens)
        if wanted:
            tokens = self._tokens(answer)
        if wanted and tokens is None:
            self._missing |= dict.fromkeys(wanted, _HIDDEN)
        statistics = None if rows.statistics is None else rows.statistics.astype(np.float64)
        return Generation(answer.text, rows.logprobs.astype(np.float64), statistics, tokens)

    def _tokens(self, answer: Answer) -> tuple[str, ...] | None:
        """Texts of the tokens; None where they do not add up to the answer's text, which is so
        with hidden reasoning, and with bytes that are no character."""
        ids = answer.rows.token_ids.tolist()
        texts = [text for (text,) in self._backend.decode([[i] for i in ids])]
        visible = len(ids)
        while visible and self._backend.is_special(ids[visible - 1]):
            visible -= 1
        joined = "".join(texts[:visible])
        lead = len(joined) - len(answer.text)
        if visible and 0 < lead < len(texts[0]) and joined.endswith(answer.text):
            # The first token of a text that was forced may have begun in the prompt.
            texts[0], joined = texts[0][lead:], answer.text
        hidden = not answer.text and visible
        return None if hidden or not joined.startswith(answer.text) else tuple(texts)

    async def _unconditional(self, rows: TraceRows) -> NDArray[np.float64]:
        """The answer on its own; the first token, with nothing before it, is NaN."""
        with self._stages.stage(Need.UNCONDITIONAL):
            own = Completion(tuple(rows.token_ids.tolist()))
            side = self._task.sides.get(Need.UNCONDITIONAL, Side.ENGINE)
            backend = side_of(self._backend, side)
            jobs = await backend.prepare([ForcingItem(Plain(()), (own,), "", ("answer",))])
            (forced,) = await self._force(Need.UNCONDITIONAL, jobs, 0, backend)
        given = forced.logprobs.astype(np.float64)
        return np.concatenate((np.full(len(rows) - len(given), np.nan), given))

    async def _extracted(self, samples: Sequence[Generation]) -> tuple[str | None, ...]:
        return await asyncio.to_thread(
            lambda: tuple(extract_answer(sample.text) for sample in samples)
        )


def _set(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options that say something: null is as good as absent."""
    return {name: value for name, value in options.items() if value is not None}
