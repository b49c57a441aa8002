"""Gathers what estimators need, by asking the engine and the judges no more than that."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any, Final

import numpy as np
from fastapi import Request
from numpy.typing import NDArray
from vllm.entrypoints.serve.engine.protocol import ErrorResponse
from vllm.tokenizers import TokenizerLike

from conf_server.engine.decoding import decode_rows
from conf_server.engine.teacher_forcing import WantedRows
from conf_server.serving.confidence import Confidence
from conf_server.serving.forcing import ForcingJob, ForcingOptions, TextForcing
from conf_server.serving.generation import AnswerGenerator, GeneratedAnswer, GeneratedAnswers
from conf_server.serving.judges import Judge, JudgeContext, Verdicts
from conf_server.serving.score_protocol import ScoreItem
from conf_server.serving.together import together
from conf_server.serving.tokenization import TextTooLongError
from conf_server.stats.trace import TokenTrace, TraceRows
from conf_server.uncertainty import prompts, similarity
from conf_server.uncertainty.evidence import Alternatives, Evidence, Generation, Judgements
from conf_server.uncertainty.prompts import LabelPrompt
from conf_server.uncertainty.registry import Need

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
}
"""Samples come from the model's own distribution unless the client says otherwise: the
estimators take that for granted, and a model's generation_config.json may not."""
STATEMENT_TOKENS: Final = 128
"""Longest answer to a question of ours that asks for words."""
VERDICT_TOKENS: Final = 8
"""Longest sampled answer to P(True)."""

Progress = Callable[[str, int, int], None]


class RequestError(Exception):
    """vLLM's own refusal of a request that was made from the client's."""

    def __init__(self, response: ErrorResponse) -> None:
        super().__init__(response.error.message)
        self.response = response


@dataclass(frozen=True)
class Task:
    """One request, validated.

    Attributes:
        needs: of all chosen methods together.
        fields: of the chat or completion request that the answer comes from.
        given: the client's answer, then its samples as far as their log-probabilities are
            wanted, ready to be forced; empty where the answer is generated here.
        answer, samples: given by the client, or None and empty.
        n_samples: how many to draw otherwise; 0 where no method wants any.
        judge: None where no method compares texts.
    """

    needs: frozenset[Need]
    fields: dict[str, Any]
    question: str
    answer: str | None
    samples: tuple[str, ...]
    n_samples: int
    temperature: float
    judge: Judge | None
    confidence: Confidence
    request_id: str
    options: ForcingOptions
    raw_request: Request | None
    given: tuple[ForcingJob, ...] = ()

    @property
    def is_chat(self) -> bool:
        return "messages" in self.fields


@dataclass
class Spent:
    """Tokens and seconds, by stage."""

    tokens: dict[str, dict[str, int]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def add(self, stage: str, prompt: int, completion: int = 0) -> None:
        entry = self.tokens.setdefault(stage, {"prompt_tokens": 0, "completion_tokens": 0})
        entry["prompt_tokens"] += prompt
        entry["completion_tokens"] += completion

    def total(self, kind: str) -> int:
        return sum(entry[kind] for entry in self.tokens.values())


@dataclass(frozen=True)
class Gathered:
    """All that is known in the end.

    Attributes:
        sample_answers: beside `evidence.samples`, where they were drawn here.
        missing: needs that this answer could not meet, and why.
    """

    evidence: Evidence
    answer: GeneratedAnswer
    sample_answers: list[GeneratedAnswer]
    missing: dict[Need, str]
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
        progress: Progress,
    ) -> None:
        self._task = task
        self._generator = generator
        self._forcing = forcing
        self._tokenizer = tokenizer
        self._model_name = model_name
        self._progress = progress
        self._answer_ids: list[int] = []
        self._missing: dict[Need, str] = {}
        self.spent = Spent()

    async def gather(self) -> Gathered:
        """Answer and samples first, all at once; then what is asked about them, all at once.

        Raises:
            RequestError: vLLM refuses one of the requests.
        """
        needs = self._task.needs
        answer, samples, verbalized, linguistic = await together(
            self._answer(),
            self._samples(),
            self._if_it_fits(Need.VERBALIZED_1S, self._verbalized_1s()),
            self._if_it_fits(Need.LINGUISTIC_1S, self._linguistic_1s()),
        )
        self._answer_ids = answer.rows.token_ids.tolist()
        text = self._text(answer, bool(needs & {Need.TOKEN_SIMILARITY, Need.CLAIMS}))
        texts = tuple(
            self._text(sample, Need.SAMPLE_TOKEN_SIMILARITY in needs) for sample in samples
        )
        self._missing |= _hidden_tokens(needs, text, texts)
        asked = {
            "unconditional_logprobs": (Need.UNCONDITIONAL, self._unconditional(text)),
            "judgements": (Need.JUDGEMENTS, self._judgements(text, texts)),
            "answer_token_similarity": (Need.TOKEN_SIMILARITY, self._answer_similarity(text)),
            "sample_token_similarity": (
                Need.SAMPLE_TOKEN_SIMILARITY,
                self._sample_similarities(texts),
            ),
            "p_true_logprobs": (Need.P_TRUE, self._p_true(text)),
            "p_true_sampling_logprobs": (
                Need.P_TRUE_SAMPLING,
                self._p_true_sampling(text, texts),
            ),
            "p_true_samples": (Need.P_TRUE_SAMPLES, self._p_true_samples(text)),
            "verbalized_2s": (Need.VERBALIZED_2S, self._verbalized_2s(text)),
            "claims": (Need.CLAIMS, self._claims(text, answer.rows)),
        }
        work = (self._if_it_fits(need, part) for need, part in asked.values())
        found = dict(zip(asked, await together(*work), strict=True))
        evidence = Evidence(
            answer=text,
            samples=texts,
            vocab_size=self._task.confidence.vocab_size,
            verbalized_1s=verbalized,
            linguistic_1s=linguistic,
            extracted_answers=tuple(prompts.extract_answer(sample.text) for sample in texts),
            **found,
        )
        return Gathered(evidence, answer, samples, self._missing, self._model_name)

    async def _if_it_fits(self, need: Need, work: Coroutine[Any, Any, Any]) -> Any:
        """A prompt of ours, with answers in it, may outgrow the model when the client's does
        not: the methods that need it are then unavailable, and the others are not lost."""
        try:
            return await work
        except TextTooLongError as error:
            self._missing[need] = f"a prompt that it asks is too long: {error.args[0]}"
            return None

    @asynccontextmanager
    async def _stage(self, name: str, count: int = 1) -> AsyncIterator[Callable[[], None]]:
        """Time a stage and report its progress; yields what to call as one of `count` is done."""
        done = 0

        def advance() -> None:
            nonlocal done
            done += 1
            self._progress(name, done, count)

        self._progress(name, 0, count)
        start = time.perf_counter()
        yield advance
        self.spent.seconds[name] = round(time.perf_counter() - start, 6)
        if done < count:
            self._progress(name, count, count)

    async def _generate(self, stage: str, fields: dict[str, Any]) -> GeneratedAnswers:
        task = self._task
        answers = await self._generator.generate(fields, task.confidence, task.raw_request)
        if isinstance(answers, ErrorResponse):
            raise RequestError(answers)
        self.spent.add(stage, answers.usage.prompt_tokens, answers.usage.completion_tokens or 0)
        self._model_name = answers.model
        return answers

    async def _answer(self) -> GeneratedAnswer:
        """The greedy answer, or the client's."""
        task = self._task
        candidates = ALTERNATIVES if Need.CLAIMS in task.needs else 0
        async with self._stage("answer"):
            if task.answer is not None:
                (rows,) = await self._force("answer", task.given[:1], candidates)
                return GeneratedAnswer(task.answer, None, rows)
            shown: dict[str, Any] = {}
            if candidates and task.is_chat:
                shown = {"logprobs": True, "top_logprobs": candidates}
            elif candidates:
                shown = {"logprobs": candidates}
            fields = {**task.fields, "temperature": 0, "n": 1, **shown}
            return (await self._generate("answer", fields)).answers[0]

    async def _samples(self) -> list[GeneratedAnswer]:
        """Samples at the client's temperature, or the client's."""
        task = self._task
        if not task.n_samples:
            return []
        async with self._stage("samples", task.n_samples):
            if task.samples and len(task.given) > 1:
                forced = await self._force("samples", task.given[1:])
                return [
                    GeneratedAnswer(text, None, rows)
                    for text, rows in zip(task.samples, forced, strict=True)
                ]
            if task.samples:
                return [_text_only(sample) for sample in task.samples]
            fields = UNTRUNCATED | task.fields
            fields |= {"temperature": task.temperature, "n": task.n_samples}
            drawn = await self._generate("samples", fields)
            return drawn.answers

    async def _force(
        self, stage: str, jobs: Sequence[ForcingJob], candidates: int = 0
    ) -> list[TraceRows]:
        task = self._task
        wanted = WantedRows(
            task.confidence.top_k, candidates, statistics=task.confidence.engine_statistics
        )
        forced = await self._forcing.force(jobs, wanted, f"{task.request_id}-{stage}", task.options)
        self.spent.add(stage, sum(len(job.text.token_ids) for job in jobs))
        return [result.rows for result in forced]

    def _text(self, answer: GeneratedAnswer, with_tokens: bool) -> Generation:
        rows = answer.rows
        tokens = None
        if with_tokens:
            decoded = decode_rows(self._tokenizer, [[i] for i in rows.token_ids.tolist()])
            tokens = tuple(text for (text,) in decoded)
        statistics = None if rows.statistics is None else rows.statistics.astype(np.float64)
        return Generation(answer.text, rows.logprobs.astype(np.float64), statistics, tokens)

    async def _unconditional(self, answer: Generation) -> NDArray[np.float64] | None:
        """The answer on its own; the first token, with nothing before it, is NaN."""
        if Need.UNCONDITIONAL not in self._task.needs:
            return None
        async with self._stage("unconditional"):
            item = ScoreItem(prompt=[], completion=self._answer_ids)
            jobs = await self._forcing.jobs([("", item)])
            if isinstance(jobs, ErrorResponse):
                raise RequestError(jobs)
            (rows,) = await self._force("unconditional", jobs)
        given = rows.logprobs.astype(np.float64)
        return np.concatenate((np.full(len(answer.logprobs) - len(given), np.nan), given))

    async def _judgements(
        self, answer: Generation, samples: Sequence[Generation]
    ) -> Judgements | None:
        if Need.JUDGEMENTS not in self._task.needs:
            return None
        assert self._task.judge is not None
        texts = [answer.text, *(sample.text for sample in samples)]
        symmetric = self._task.judge.symmetric
        pairs = similarity.unique_pairs(texts, symmetric)
        verdicts = await self._judge("judgements", [(texts[i], texts[j]) for i, j in pairs])
        return similarity.assemble(texts, pairs, verdicts, symmetric)

    async def _judge(self, stage: str, pairs: Sequence[tuple[str, str]]) -> Verdicts:
        """Verdicts on pairs, each distinct one asked for once."""
        judge = self._task.judge
        assert judge is not None
        distinct = list(dict.fromkeys(pairs))
        if not distinct:
            return np.empty((0, 3))
        async with self._stage(stage, len(distinct)) as advance:
            context = replace(self._context(stage), advance=advance)
            verdicts = await judge.judge(distinct, context)
        if context.cost.prompt_tokens:
            self.spent.add(stage, context.cost.prompt_tokens)
        place = {pair: i for i, pair in enumerate(distinct)}
        return verdicts[[place[pair] for pair in pairs]]

    def _context(self, stage: str) -> JudgeContext:
        task = self._task
        return JudgeContext(
            question=task.question,
            is_chat=task.is_chat,
            request_id=f"{task.request_id}-{stage}",
            statistics=task.confidence.engine_statistics,
            options=task.options,
            chat_template_kwargs=task.fields.get("chat_template_kwargs"),
        )

    async def _answer_similarity(self, answer: Generation) -> NDArray[np.float64] | None:
        found = await self._token_similarities(Need.TOKEN_SIMILARITY, (answer,))
        return found[0] if found else None

    async def _sample_similarities(
        self, samples: Sequence[Generation]
    ) -> tuple[NDArray[np.float64], ...] | None:
        return await self._token_similarities(Need.SAMPLE_TOKEN_SIMILARITY, samples)

    async def _token_similarities(
        self, need: Need, texts: Sequence[Generation]
    ) -> tuple[NDArray[np.float64], ...] | None:
        """For each text, its similarity to itself without each of its tokens."""
        if need not in self._task.needs or need in self._missing:
            return None
        removed = [similarity.token_removals(text) for text in texts]
        pairs = [
            (text.text, part) for text, parts in zip(texts, removed, strict=True) for part in parts
        ]
        changed = [pair for pair in pairs if pair[0] != pair[1]]
        verdicts = dict(zip(changed, await self._judge(str(need), changed), strict=True))
        similarities = np.array(
            [verdicts[pair][0] if pair in verdicts else 1.0 for pair in pairs], np.float64
        )
        borders = np.cumsum([len(parts) for parts in removed])[:-1]
        return tuple(np.split(similarities, borders))

    async def _label_logprobs(self, stage: str, prompt: LabelPrompt) -> tuple[float, float]:
        context = self._context(stage)
        async with self._stage(stage):
            (found,) = await self._forcing.labels(
                [context.item(prompt)], context.statistics, context.request_id, context.options
            )
        self.spent.add(stage, found.num_tokens)
        first, second = found.logprobs.tolist()
        return first, second

    async def _p_true(self, answer: Generation) -> tuple[float, float] | None:
        if Need.P_TRUE not in self._task.needs:
            return None
        prompt = prompts.p_true(self._task.question, answer.text)
        return await self._label_logprobs("p_true", prompt)

    async def _p_true_sampling(
        self, answer: Generation, samples: Sequence[Generation]
    ) -> tuple[float, float] | None:
        if Need.P_TRUE_SAMPLING not in self._task.needs:
            return None
        texts = [sample.text for sample in samples]
        prompt = prompts.p_true_sampling(self._task.question, answer.text, texts)
        return await self._label_logprobs("p_true_sampling", prompt)

    async def _p_true_samples(self, answer: Generation) -> tuple[str, ...] | None:
        if Need.P_TRUE_SAMPLES not in self._task.needs:
            return None
        prompt = prompts.p_true(self._task.question, answer.text).text
        drawn = await self._ask(
            Need.P_TRUE_SAMPLES,
            prompt,
            n=self._task.n_samples,
            temperature=self._task.temperature,
            max_tokens=VERDICT_TOKENS,
        )
        return tuple(drawn or ())

    async def _verbalized_1s(self) -> str | None:
        texts = await self._ask(Need.VERBALIZED_1S, prompts.verbalized_1s(self._task.question))
        return texts[0] if texts else None

    async def _linguistic_1s(self) -> str | None:
        texts = await self._ask(Need.LINGUISTIC_1S, prompts.linguistic_1s(self._task.question))
        return texts[0] if texts else None

    async def _verbalized_2s(self, answer: Generation) -> str | None:
        if Need.VERBALIZED_2S not in self._task.needs:
            return None
        question = prompts.verbalized_2s()
        if not self._task.is_chat:
            question = f"{self._task.question}{answer.text}\n\n{question}\n"
        before = [
            *(self._task.fields.get("messages") or ()),
            {"role": "assistant", "content": answer.text},
        ]
        texts = await self._ask(Need.VERBALIZED_2S, question, before)
        return texts[0] if texts else None

    async def _ask(
        self,
        need: Need,
        prompt: str,
        before: Sequence[dict[str, Any]] = (),
        **changes: Any,
    ) -> list[str] | None:
        """The model's own words after a prompt of ours, greedy unless `changes` say otherwise."""
        if need not in self._task.needs:
            return None
        stage = str(need)
        fields = {name: value for name, value in self._task.fields.items() if name in SHARED_FIELDS}
        fields |= {"temperature": 0, "n": 1, "max_tokens": STATEMENT_TOKENS}
        if self._task.is_chat:
            fields["messages"] = [*before, {"role": "user", "content": prompt}]
        else:
            fields["prompt"] = prompt
        async with self._stage(stage):
            answers = await self._generate(stage, fields | changes)
        return [answer.text for answer in answers.answers]

    async def _claims(self, answer: Generation, rows: TraceRows) -> tuple[Alternatives, ...] | None:
        """Each token's likeliest alternatives, judged against it."""
        if Need.CLAIMS not in self._task.needs or Need.CLAIMS in self._missing:
            return None
        ids, logprobs = _own_first(rows)
        decoded = decode_rows(self._tokenizer, [list(row) for row in ids])
        pairs = [similarity.alternative_pairs(row) for row in decoded]
        flat = list(chain.from_iterable(pairs))
        verdicts = dict(zip(flat, await self._judge("claims", flat), strict=True))
        return tuple(
            similarity.assemble_alternatives(
                row, values, wanted, np.array([verdicts[pair] for pair in wanted]).reshape(-1, 3)
            )
            for row, values, wanted in zip(decoded, logprobs, pairs, strict=True)
        )


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


def _hidden_tokens(
    needs: frozenset[Need], answer: Generation, samples: Sequence[Generation]
) -> dict[Need, str]:
    """Needs that an answer with tokens beside its text cannot meet, and why.

    Such are hidden reasoning, and bytes that are no character.
    """
    reason = "the tokens do not add up to the text: some are hidden, or are no text"
    missing = {}
    if not _adds_up(answer):
        missing[Need.TOKEN_SIMILARITY] = missing[Need.CLAIMS] = reason
    if not all(map(_adds_up, samples)):
        missing[Need.SAMPLE_TOKEN_SIMILARITY] = reason
    return {need: why for need, why in missing.items() if need in needs}


def _adds_up(text: Generation) -> bool:
    return text.tokens is None or "".join(text.tokens).startswith(text.text)


def _text_only(text: str) -> GeneratedAnswer:
    trace = TokenTrace(0)
    return GeneratedAnswer(text, None, trace.all())
