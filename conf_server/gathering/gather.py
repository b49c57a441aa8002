"""Gathers what estimators need, by asking the engine and the judges no more than that."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate, chain
from typing import Any, Final

import numpy as np
from fastapi import Request
from numpy.typing import NDArray
from vllm.entrypoints.serve.engine.protocol import ErrorResponse
from vllm.tokenizers import TokenizerLike

from conf_server.backends.forcing import ForcingJob, ForcingOptions, TextForcing
from conf_server.backends.served import (
    AnswerGenerator,
    GeneratedAnswer,
    GeneratedAnswers,
    RequestError,
)
from conf_server.backends.tokenization import TextTooLongError
from conf_server.concurrency import together
from conf_server.engine.client.decoding import decode_rows
from conf_server.engine.client.teacher_forcing import WantedRows
from conf_server.gathering.metered import Stages
from conf_server.judges.base import Judge, JudgeContext, Verdicts
from conf_server.serving.confidence import Confidence
from conf_server.serving.score_protocol import ScoreItem
from conf_server.stats.trace import TokenTrace, TraceRows
from conf_server.uncertainty import pairs as text_pairs
from conf_server.uncertainty import parsing, prompts
from conf_server.uncertainty.evidence import Alternatives, Evidence, Generation, Judgements
from conf_server.uncertainty.needs import Asks, Need
from conf_server.uncertainty.prompts import LabelPrompt

ALTERNATIVES: Final = 10
"""Candidates of each token that `claim_conditioned_probability` weighs: lm-polygraph's number."""

SHARED_FIELDS: Final = frozenset(
    {"model", "seed", "cache_salt", "priority", "chat_template", "chat_template_kwargs"}
)
"""What questions of ours take over from the client's request."""
UNTRUNCATED: Final[dict[str, Any]] = {
    "top_p": 1.0,
    "top_k": 0,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
}
"""Samples come from the model's own distribution unless the client says otherwise: the
estimators take that for granted, and a model's generation_config.json may not."""
STATEMENT_TOKENS: Final = 128
"""Longest answer to a question of ours that asks for words."""
VERDICT_TOKENS: Final = 8
"""Longest sampled answer to P(True)."""

OF_SAMPLES: Final = frozenset(need for need in Need if Asks.SAMPLES in need.asks)
"""Needs that further answers to the client's prompt meet."""

Way = tuple[str, Callable[[], Coroutine[Any, Any, Any]]]
"""The field of `Evidence` that meets a need, and how to come by it."""


class TooMuchToJudgeError(Exception):
    """A judge would have to read more than the server allows."""


@dataclass(frozen=True)
class Task:
    """One request, validated.

    Attributes:
        needs: of all chosen methods together.
        fields: of the chat or completion request that the answer comes from.
        answer, samples: given by the client, or None and empty.
        given: these, ready to be forced.
        n_samples: how many samples, and sampled verdicts, the methods get.
        judge: None where no method compares texts.
        max_judged_characters: that it may read for all needs together.
    """

    needs: frozenset[Need]
    fields: dict[str, Any]
    question: str
    answer: str | None
    samples: tuple[str, ...]
    given: tuple[ForcingJob, ...]
    n_samples: int
    temperature: float
    judge: Judge | None
    max_judged_characters: int
    confidence: Confidence
    request_id: str
    options: ForcingOptions
    raw_request: Request | None

    @property
    def is_chat(self) -> bool:
        return "messages" in self.fields


@dataclass(frozen=True)
class Gathered:
    """All that is known in the end.

    Attributes:
        sample_answers: beside `evidence.samples`.
        missing: needs that this answer could not meet, and why.
        inexact: needs met with less: by a judge that read the beginnings of texts only, or by
            log-probabilities of what a grammar allowed.
    """

    evidence: Evidence
    answer: GeneratedAnswer
    sample_answers: list[GeneratedAnswer]
    missing: dict[Need, str]
    inexact: frozenset[Need]
    model: str


class EvidenceGatherer:
    """Works on one `Task`."""

    def __init__(
        self,
        task: Task,
        generator: AnswerGenerator,
        forcing: TextForcing,
        tokenizer: TokenizerLike,
        model_name: str,
        stages: Stages,
    ) -> None:
        self._task = task
        self._generator = generator
        self._forcing = forcing
        self._tokenizer = tokenizer
        self._model_name = model_name
        self._stages = stages
        self._missing: dict[Need, str] = {}
        self._inexact: set[Need] = set()
        self._judged_characters = 0

    async def gather(self) -> Gathered:
        """Answer and samples first, all at once; then what is asked about them, all at once.

        Raises:
            RequestError: vLLM refuses one of the requests.
        """
        task = self._task
        answer, samples, stated = await together(
            self._answer(),
            self._samples(),
            self._meet(
                {
                    Need.VERBALIZED_1S: ("verbalized_1s", self._verbalized_1s),
                    Need.LINGUISTIC_1S: ("linguistic_1s", self._linguistic_1s),
                }
            ),
        )
        text = self._text(answer, Need.TOKEN_SIMILARITY, Need.CLAIMS)
        texts = tuple(self._text(sample, Need.SAMPLE_TOKEN_SIMILARITY) for sample in samples)
        found = await self._meet(self._ways(answer, text, texts))
        evidence = Evidence(
            answer=text,
            samples=texts,
            vocab_size=task.confidence.vocab_size,
            **stated,
            **found,
        )
        return Gathered(
            evidence,
            answer,
            samples,
            self._missing,
            frozenset(self._inexact),
            self._model_name,
        )

    def _ways(
        self, answer: GeneratedAnswer, text: Generation, samples: tuple[Generation, ...]
    ) -> dict[Need, Way]:
        return {
            Need.UNCONDITIONAL: (
                "unconditional_logprobs",
                partial(self._unconditional, answer.rows),
            ),
            Need.JUDGEMENTS: ("judgements", partial(self._judgements, text, samples)),
            Need.TOKEN_SIMILARITY: (
                "answer_token_similarity",
                partial(self._answer_similarity, text),
            ),
            Need.SAMPLE_TOKEN_SIMILARITY: (
                "sample_token_similarity",
                partial(self._sample_similarities, samples),
            ),
            Need.P_TRUE: ("p_true_logprobs", partial(self._p_true, text)),
            Need.P_TRUE_SAMPLING: (
                "p_true_sampling_logprobs",
                partial(self._p_true_sampling, text, samples),
            ),
            Need.P_TRUE_SAMPLES: ("p_true_samples", partial(self._p_true_samples, text)),
            Need.VERBALIZED_2S: ("verbalized_2s", partial(self._verbalized_2s, text)),
            Need.EXTRACTED_ANSWERS: ("extracted_answers", partial(self._extracted, samples)),
            Need.CLAIMS: ("claims", partial(self._claims, answer.rows)),
        }

    async def _meet(self, ways: Mapping[Need, Way]) -> dict[str, Any]:
        """Fields of `Evidence`: of the needs that there are, those that can be met."""
        wanted = [
            (need, *way)
            for need, way in ways.items()
            if need in self._task.needs and need not in self._missing
        ]
        found = await together(*(self._if_it_fits(need, way) for need, _, way in wanted))
        return {name: value for (_, name, _), value in zip(wanted, found, strict=True)}

    async def _if_it_fits(self, need: Need, way: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        """A prompt of ours, with answers in it, may outgrow the model when the client's does
        not: the methods that need it are then unavailable, and the others are not lost."""
        try:
            return await way()
        except TextTooLongError as error:
            self._missing[need] = f"a prompt that it asks is too long: {error.args[0]}"
        except TooMuchToJudgeError as error:
            self._missing[need] = str(error)
        return None

    # The answer and the samples.

    async def _generate(self, stage: str, fields: dict[str, Any]) -> GeneratedAnswers:
        task = self._task
        answers = await self._generator.generate(fields, task.confidence, task.raw_request)
        usage = answers.usage
        self._stages.spend(stage, usage.prompt_tokens, usage.completion_tokens or 0)
        self._model_name = answers.model
        return answers

    async def _answer(self) -> GeneratedAnswer:
        """The greedy answer, or the client's."""
        task = self._task
        candidates = ALTERNATIVES if Need.CLAIMS in task.needs else 0
        with self._stages.stage("answer"):
            if task.answer is not None:
                (rows,) = await self._force("answer", task.given[:1], candidates)
                return GeneratedAnswer(task.answer, None, rows)
            shown: dict[str, Any] = {}
            if candidates and task.is_chat:
                shown = {"logprobs": True, "top_logprobs": candidates}
            elif candidates:
                shown = {"logprobs": candidates}
            fields = {**task.fields, "temperature": 0, "n": 1, **shown}
            generated = await self._generate("answer", fields)
            if generated.masked:
                self._inexact |= {Need.ANSWER_LOGPROBS, Need.CLAIMS}
            return generated.answers[0]

    async def _samples(self) -> list[GeneratedAnswer]:
        """Samples at the client's temperature, or the client's."""
        task = self._task
        if not task.needs & OF_SAMPLES:
            return []
        with self._stages.stage("samples", task.n_samples):
            if task.samples and Need.SAMPLE_LOGPROBS in task.needs:
                forced = await self._force("samples", task.given[1:])
                return [
                    GeneratedAnswer(text, None, rows)
                    for text, rows in zip(task.samples, forced, strict=True)
                ]
            if task.samples:
                nothing = TokenTrace(0).all()
                return [GeneratedAnswer(text, None, nothing, False) for text in task.samples]
            unset = {name for name in UNTRUNCATED if task.fields.get(name) is None}
            fields = task.fields | {name: UNTRUNCATED[name] for name in unset}
            fields |= {"temperature": task.temperature, "n": task.n_samples}
            generated = await self._generate("samples", fields)
            if generated.masked:
                self._inexact.add(Need.SAMPLE_LOGPROBS)
            return generated.answers

    async def _force(
        self, stage: str, jobs: Sequence[ForcingJob], candidates: int = 0
    ) -> list[TraceRows]:
        task = self._task
        wanted = WantedRows(
            task.confidence.top_k, candidates, statistics=task.confidence.engine_statistics
        )
        forced = await self._forcing.force(jobs, wanted, f"{task.request_id}-{stage}", task.options)
        self._stages.spend(stage, sum(len(job.text.token_ids) for job in jobs))
        return [result.rows for result in forced]

    def _text(self, answer: GeneratedAnswer, *of_tokens: Need) -> Generation:
        """The answer for estimators, with its tokens' texts if one of the needs wants them."""
        rows, tokens = answer.rows, None
        wanted = self._task.needs & set(of_tokens)
        if wanted:
            tokens = self._tokens(answer)
        if wanted and tokens is None:
            reason = "the tokens do not add up to the text: some are hidden, or are no text"
            self._missing |= dict.fromkeys(wanted, reason)
        statistics = None if rows.statistics is None else rows.statistics.astype(np.float64)
        return Generation(answer.text, rows.logprobs.astype(np.float64), statistics, tokens)

    def _tokens(self, answer: GeneratedAnswer) -> tuple[str, ...] | None:
        """Texts of the tokens; None where they do not add up to the answer's text, which is so
        with hidden reasoning, and with bytes that are no character."""
        ids = answer.rows.token_ids.tolist()
        texts = [text for (text,) in decode_rows(self._tokenizer, [[i] for i in ids])]
        joined = "".join(texts)
        lead = len(joined) - len(answer.text)
        if texts and 0 < lead < len(texts[0]) and joined.endswith(answer.text):
            # The first token of a text that was forced may have begun in the prompt.
            texts[0], joined = texts[0][lead:], answer.text
        hidden = not answer.text and any(i not in self._tokenizer.all_special_ids for i in ids)
        return None if hidden or not joined.startswith(answer.text) else tuple(texts)

    async def _unconditional(self, rows: TraceRows) -> NDArray[np.float64]:
        """The answer on its own; the first token, with nothing before it, is NaN."""
        with self._stages.stage("unconditional"):
            item = ScoreItem(prompt=[], completion=rows.token_ids.tolist())
            jobs = await self._forcing.jobs([("", item)])
            if isinstance(jobs, ErrorResponse):
                raise RequestError(jobs)
            (forced,) = await self._force("unconditional", jobs)
        given = forced.logprobs.astype(np.float64)
        return np.concatenate((np.full(len(rows) - len(given), np.nan), given))

    async def _extracted(self, samples: Sequence[Generation]) -> tuple[str | None, ...]:
        return await asyncio.to_thread(
            lambda: tuple(parsing.extract_answer(sample.text) for sample in samples)
        )

    # What a judge says.

    async def _judge(self, need: Need, pairs: Sequence[tuple[str, str]]) -> Verdicts:
        """Verdicts on pairs, each distinct one asked for once."""
        judge = self._task.judge
        assert judge is not None
        distinct = list(dict.fromkeys(pairs))
        if not distinct:
            return np.empty((0, 3))
        self._judged_characters = self._check_characters(
            sum(judge.characters(len(a), len(b)) for a, b in distinct)
        )
        with self._stages.stage(need, len(distinct)) as advance:
            context = replace(self._context(need), advance=advance)
            verdicts = await judge.judge(distinct, context)
        if context.notes.prompt_tokens:
            self._stages.spend(need, context.notes.prompt_tokens)
        if context.notes.cut:
            self._inexact.add(need)
        place = {pair: i for i, pair in enumerate(distinct)}
        return verdicts[[place[pair] for pair in pairs]]

    def _check_characters(self, count: int) -> int:
        """What has been compared for this request, and so many characters more."""
        total, limit = self._judged_characters + count, self._task.max_judged_characters
        if total > limit:
            raise TooMuchToJudgeError(
                f"texts of {total} characters would have to be compared for this request, at most "
                f"{limit} (--max-judged-characters)"
            )
        return total

    def _context(self, stage: str) -> JudgeContext:
        task = self._task
        return JudgeContext(
            question=task.question,
            is_chat=task.is_chat,
            request_id=f"{task.request_id}-{stage}",
            statistics=task.confidence.engine_statistics,
            options=task.options,
            chat_template=task.fields.get("chat_template"),
            chat_template_kwargs=task.fields.get("chat_template_kwargs"),
        )

    async def _judgements(self, answer: Generation, samples: Sequence[Generation]) -> Judgements:
        assert self._task.judge is not None
        texts = [answer.text, *(sample.text for sample in samples)]
        symmetric = self._task.judge.symmetric
        pairs = text_pairs.unique_pairs(texts, symmetric)
        verdicts = await self._judge(Need.JUDGEMENTS, [(texts[i], texts[j]) for i, j in pairs])
        return text_pairs.assemble(texts, pairs, verdicts, symmetric)

    async def _answer_similarity(self, answer: Generation) -> NDArray[np.float64]:
        return (await self._token_similarities(Need.TOKEN_SIMILARITY, (answer,)))[0]

    async def _sample_similarities(
        self, samples: Sequence[Generation]
    ) -> tuple[NDArray[np.float64], ...]:
        return await self._token_similarities(Need.SAMPLE_TOKEN_SIMILARITY, samples)

    async def _token_similarities(
        self, need: Need, texts: Sequence[Generation]
    ) -> tuple[NDArray[np.float64], ...]:
        """For each text, its similarity to itself without each of its tokens."""
        # Before the copies are made: there is one of each text for each of its tokens.
        self._check_characters(sum(2 * len(text.text) * len(text.logprobs) for text in texts))
        removed = [text_pairs.token_removals(text) for text in texts]
        pairs = [
            (text.text, part) for text, parts in zip(texts, removed, strict=True) for part in parts
        ]
        changed = [pair for pair in pairs if pair[0] != pair[1]]
        verdicts = dict(zip(changed, await self._judge(need, changed), strict=True))
        similarities = np.array(
            [verdicts[pair][0] if pair in verdicts else 1.0 for pair in pairs], np.float64
        )
        borders = np.cumsum([len(parts) for parts in removed])[:-1]
        return tuple(np.split(similarities, borders))

    async def _claims(self, rows: TraceRows) -> tuple[Alternatives, ...]:
        """Each token's likeliest alternatives, judged against it."""
        ids, logprobs = await asyncio.to_thread(_own_first, rows)
        decoded = decode_rows(self._tokenizer, ids)
        pairs = await asyncio.to_thread(_alternative_pairs, decoded)
        verdicts = await self._judge(Need.CLAIMS, list(chain.from_iterable(pairs)))
        return await asyncio.to_thread(_alternatives, decoded, logprobs, pairs, verdicts)

    # What the model says of itself.

    async def _label_logprobs(self, need: Need, prompt: LabelPrompt) -> tuple[float, float]:
        context = self._context(need)
        with self._stages.stage(need):
            (found,) = await self._forcing.labels(
                [partial(context.item, prompt)],
                context.statistics,
                context.request_id,
                context.options,
            )
        self._stages.spend(need, found.num_tokens)
        first, second = found.logprobs.tolist()
        return first, second

    async def _p_true(self, answer: Generation) -> tuple[float, float]:
        prompt = prompts.p_true(self._task.question, answer.text)
        return await self._label_logprobs(Need.P_TRUE, prompt)

    async def _p_true_sampling(
        self, answer: Generation, samples: Sequence[Generation]
    ) -> tuple[float, float]:
        texts = [sample.text for sample in samples]
        prompt = prompts.p_true_sampling(self._task.question, answer.text, texts)
        return await self._label_logprobs(Need.P_TRUE_SAMPLING, prompt)

    async def _p_true_samples(self, answer: Generation) -> tuple[str, ...]:
        drawn = await self._ask(
            Need.P_TRUE_SAMPLES,
            prompts.p_true(self._task.question, answer.text).text,
            n=self._task.n_samples,
            temperature=self._task.temperature,
            max_tokens=VERDICT_TOKENS,
            **UNTRUNCATED,
        )
        return tuple(verdict.text for verdict in drawn)

    async def _verbalized_1s(self) -> str:
        return await self._statement(Need.VERBALIZED_1S, prompts.verbalized_1s(self._task.question))

    async def _linguistic_1s(self) -> str:
        return await self._statement(Need.LINGUISTIC_1S, prompts.linguistic_1s(self._task.question))

    async def _verbalized_2s(self, answer: Generation) -> str:
        question = prompts.verbalized_2s()
        if not self._task.is_chat:
            question = f"{self._task.question}{answer.text}\n\n{question}\n"
        before = [
            *(self._task.fields.get("messages") or ()),
            {"role": "assistant", "content": answer.text},
        ]
        return await self._statement(Need.VERBALIZED_2S, question, before)

    async def _statement(
        self, need: Need, prompt: str, before: Sequence[dict[str, Any]] = ()
    ) -> str:
        """The model's own words; of a statement that was cut off its whole lines."""
        (stated,) = await self._ask(need, prompt, before, max_tokens=STATEMENT_TOKENS)
        if stated.finish_reason == "length":
            return stated.text.rpartition("\n")[0]
        return stated.text

    async def _ask(
        self,
        need: Need,
        prompt: str,
        before: Sequence[dict[str, Any]] = (),
        **changes: Any,
    ) -> list[GeneratedAnswer]:
        """Answers to a prompt of ours, one and greedy unless `changes` say otherwise."""
        fields = {name: value for name, value in self._task.fields.items() if name in SHARED_FIELDS}
        fields |= {"temperature": 0, "n": 1}
        if self._task.is_chat:
            fields["messages"] = [*before, {"role": "user", "content": prompt}]
        else:
            fields["prompt"] = prompt
        with self._stages.stage(need):
            return (await self._generate(need, fields | changes)).answers


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
