"""/v1/uncertainty: how sure the model is of an answer, by every method that the field has."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

from fastapi import Request
from vllm.entrypoints.generate.base.serving import GenerateBaseServing
from vllm.entrypoints.serve.engine.protocol import ErrorResponse
from vllm.exceptions import VLLMValidationError
from vllm.tokenizers import TokenizerLike

from conf_server.backends.forcing import ForcingJob, ForcingOptions, TextForcing
from conf_server.backends.served import AnswerGenerator, RequestError
from conf_server.concurrency import Cancelled, in_thread, raise_if
from conf_server.gathering.gather import (
    ALTERNATIVES,
    OF_SAMPLES,
    EvidenceGatherer,
    Gathered,
    Task,
)
from conf_server.gathering.metered import Progress, Stages
from conf_server.judges.base import FunctionJudge, Judge, ModelJudge, RougeLJudge, SelfNliJudge
from conf_server.serving.confidence import Confidence, finite
from conf_server.serving.score_protocol import ScoreItem
from conf_server.serving.tokens import max_candidates
from conf_server.serving.uncertainty_protocol import (
    AnswerText,
    MethodDescription,
    MethodEstimate,
    MethodList,
    SampleText,
    UncertaintyRequest,
    UncertaintyResponse,
    UncertaintyUsage,
)
from conf_server.settings import ConfidenceSettings, SettingsError
from conf_server.stats.sequence import mean_logprob, sum_logprob
from conf_server.uncertainty.needs import Asks, Need
from conf_server.uncertainty.registry import GROUPS, METHODS, Estimate, Method, resolve
from conf_server.uncertainty.words.overlap import jaccard

_SAMPLED: Final = frozenset(need for need in Need if need.asks & (Asks.SAMPLES | Asks.REPEATS))
_JUDGED: Final = frozenset(need for need in Need if Asks.JUDGE in need.asks)
_FORCED: Final = frozenset(need for need in Need if Asks.FORCING in need.asks)
_QUOTING: Final = frozenset(need for need in Need if Asks.QUOTES in need.asks)


_LENGTHS: Final = ("max_completion_tokens", "max_tokens")
"""vLLM's order, where a request has both."""


@dataclass(frozen=True)
class Plan:
    """What a request gets.

    Attributes:
        unavailable: methods of the group `all` that this server cannot do, and why.
        similarity: name of the judge; None where nobody has to compare texts.
    """

    methods: tuple[Method, ...]
    needs: frozenset[Need]
    unavailable: dict[str, str]
    similarity: str | None
    n_samples: int


class ServingUncertainty(GenerateBaseServing):
    """Handler of POST /v1/uncertainty and GET /v1/uncertainty/methods."""

    def __init__(
        self,
        chat: Any,
        completion: Any,
        forcing: TextForcing,
        settings: ConfidenceSettings,
        models: Mapping[str, Any],
    ) -> None:
        """
        Args:
            chat, completion: our handlers.
            models: similarity models by name: `embedding`, `nli`, or neither.
        """
        super().__init__(
            engine_client=chat.engine_client,
            models=chat.models,
            request_logger=chat.request_logger,
        )
        self.settings = settings
        self._forcing = forcing
        self._generator = AnswerGenerator(chat, completion)
        self._judges: dict[str, Judge] = {
            "jaccard": FunctionJudge(jaccard),
            "rouge_l": RougeLJudge(),
            "self_nli": SelfNliJudge(forcing),
        }
        self._judges |= {name: ModelJudge(model) for name, model in models.items()}
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="estimates")

    # The catalogue.

    def methods(self) -> MethodList:
        """All methods, and which of them this server can do."""
        data = []
        for name, method in METHODS.items():
            reason = self._obstacle(method, self._default_similarity())
            data.append(
                MethodDescription(
                    name=name,
                    description=method.description,
                    needs=sorted(method.needs),
                    source=method.source,
                    higher_is=method.higher_is,
                    groups=[group for group, names in GROUPS.items() if name in names],
                    available=reason is None,
                    reason=reason,
                )
            )
        return MethodList(
            data=data,
            groups={group: list(names) for group, names in GROUPS.items()},
            similarities=sorted(self._judges),
            default_similarity=self._default_similarity(),
        )

    def _default_similarity(self) -> str:
        """The best judge that is there without a further model, or a model that was given."""
        for name in ("nli", "self_nli"):
            if name in self._judges and (name != "self_nli" or self._can_self_judge()):
                return name
        return "rouge_l"

    def _can_self_judge(self) -> bool:
        return self._forcing.has_chat_template and self._forcing.obstacle() is None

    def _obstacle(self, method: Method, similarity: str) -> str | None:
        """Why this server cannot do a method; names the flag that would mend it."""
        if Need.ANSWER_STATISTICS in method.needs and not self.settings.engine_statistics:
            return "needs exact token statistics: start conf-server with --token-statistics engine"
        candidates = max_candidates(self.model_config)
        if Need.CLAIMS in method.needs and candidates < ALTERNATIVES:
            return (
                f"needs {ALTERNATIVES} candidates a token: start with --max-logprobs {ALTERNATIVES}"
            )
        judged_here = bool(method.needs & _JUDGED) and similarity == "self_nli"
        if method.needs & _FORCED or judged_here:
            return self._forcing.obstacle()
        return None

    # A request.

    async def create_uncertainty(
        self, request: UncertaintyRequest, raw_request: Request | None = None
    ) -> UncertaintyResponse | ErrorResponse | AsyncGenerator[str, None]:
        """Validate everything, then gather and estimate.

        Raises:
            VLLMValidationError, RequestValidationError: naming the field; the engine has
                seen nothing yet.
        """
        error: ErrorResponse | None = await self._check_model(request)  # type: ignore[arg-type]
        if error is not None:
            return error
        plan = self._plan(request)
        try:
            task, validated = await self._task(request, plan, raw_request)
            self._preflight(1 + plan.n_samples)
            if request.stream:
                # What vLLM refuses is a 400 here too, no event after a 200.
                await self._generator.check(validated)
                return self._events(plan, task, request)
            return await self._answer(plan, task, request, lambda *_: None)
        except RequestError as refused:
            return refused.response

    def _plan(self, request: UncertaintyRequest) -> Plan:
        options = request.uncertainty
        try:
            methods = resolve(options.methods)
        except KeyError as error:
            raise VLLMValidationError(
                f"`uncertainty.methods`: no method or group {error.args[0]!r}; "
                "GET /v1/uncertainty/methods lists them.",
                parameter="uncertainty.methods",
                value=error.args[0],
            ) from None
        similarity = self._similarity(options.similarity)
        obstacles = {
            m.name: self._obstacle(m, similarity) or _no_text(m, similarity, request)
            for m in methods
        }
        unavailable = {name: reason for name, reason in obstacles.items() if reason}
        for name in options.methods:
            if name in unavailable:
                raise VLLMValidationError(
                    f"`uncertainty.methods`: {name} {unavailable[name]}.",
                    parameter="uncertainty.methods",
                    value=name,
                )
        methods = tuple(method for method in methods if method.name not in unavailable)
        needs = frozenset(need for method in methods for need in method.needs)
        n_samples = 0
        if needs & _SAMPLED:
            n_samples = len(request.samples or ()) or options.n_samples
        return Plan(methods, needs, unavailable, similarity if needs & _JUDGED else None, n_samples)

    def _similarity(self, name: str | None) -> str:
        if name is None:
            return self._default_similarity()
        if name in self._judges:
            return name
        flags = {"embedding": "--embedding-model PATH", "nli": "--nli-model PATH"}
        hint = f"start conf-server with {flags[name]}" if name in flags else "this server has"
        known = "" if name in flags else f" {', '.join(sorted(self._judges))}"
        raise VLLMValidationError(
            f"`uncertainty.similarity`: no {name!r} here; {hint}{known}.",
            parameter="uncertainty.similarity",
            value=name,
        )

    async def _task(
        self, request: UncertaintyRequest, plan: Plan, raw_request: Request | None
    ) -> tuple[Task, Any]:
        """The task, and the request for its samples as vLLM's model has it."""
        self._check_samples(request, plan)
        fields = request.generation_fields()
        validated = self._generator.validated(fields | {"n": max(plan.n_samples, 1)})
        self._check_prompt(request)
        given = await self._given(request, validated)
        fields |= self._length(request, plan, validated, _given_tokens(given))
        validated = self._generator.validated(fields | {"n": max(plan.n_samples, 1)})
        headers = None
        if raw_request is not None:
            headers = await self._get_trace_headers(raw_request.headers)
        lora_request = self._maybe_get_adapters(request)  # type: ignore[arg-type]
        task = Task(
            needs=plan.needs,
            fields=fields,
            question=question(request, self.renderer.get_tokenizer()),
            answer=request.answer,
            samples=tuple(request.samples or ()),
            given=given,
            n_samples=plan.n_samples,
            temperature=request.uncertainty.temperature,
            judge=self._judges[plan.similarity] if plan.similarity else None,
            max_judged_characters=self.settings.max_judged_characters,
            confidence=Confidence.resolve(None, self.settings, self.model_config),
            request_id=f"uncertainty-{self._base_request_id(raw_request, request.request_id)}",
            options=ForcingOptions(lora_request, request.cache_salt, request.priority, headers),
            raw_request=raw_request,
        )
        return task, validated

    async def _given(self, request: UncertaintyRequest, validated: Any) -> tuple[ForcingJob, ...]:
        """The client's answer and samples as tokens after the prompt that `validated` makes."""
        if request.answer is None:
            return ()
        if obstacle := self._forcing.obstacle():
            raise VLLMValidationError(f"`answer`: {obstacle}.", parameter="answer")
        texts = {"answer": request.answer}
        texts |= {f"samples.{i}": text for i, text in enumerate(request.samples or ())}
        prompt: Any = request.prompt
        if request.messages is not None:
            prompt = await self._forcing.render(validated)
            if isinstance(prompt, ErrorResponse):
                raise RequestError(prompt)
        elif validated.truncate_prompt_tokens is not None:
            raise VLLMValidationError(
                "`truncate_prompt_tokens` has no place beside an `answer`.",
                parameter="truncate_prompt_tokens",
            )
        item = ScoreItem(
            prompt=prompt,
            completions=list(texts.values()),
            add_special_tokens=validated.add_special_tokens,
        )
        jobs = await self._forcing.jobs([("", item)], list(texts))
        if isinstance(jobs, ErrorResponse):
            raise RequestError(jobs)
        tokens = _given_tokens(jobs)
        if tokens > self.settings.max_uncertainty_tokens:
            name = "samples" if len(jobs) > 1 else "answer"
            raise VLLMValidationError(
                f"`{name}`: {tokens} tokens with the answer's, at most "
                f"{self.settings.max_uncertainty_tokens} (--max-uncertainty-tokens).",
                parameter=name,
            )
        return tuple(jobs)

    def _check_samples(self, request: UncertaintyRequest, plan: Plan) -> None:
        limit = self.settings.max_uncertainty_samples
        count = len(request.samples or ()) or plan.n_samples
        if count > limit:
            name = "samples" if request.samples else "uncertainty.n_samples"
            raise VLLMValidationError(
                f"`{name}`: {count}, at most {limit} (--max-uncertainty-samples).",
                parameter=name,
            )

    def _check_prompt(self, request: UncertaintyRequest) -> None:
        """A prompt of token ids is decoded for the questions that are asked about it."""
        vocabulary = self.model_config.get_vocab_size()
        if isinstance(request.prompt, list) and max(request.prompt) >= vocabulary:
            raise VLLMValidationError(
                f"`prompt`: token id {max(request.prompt)} is outside the vocabulary of "
                f"{vocabulary}.",
                parameter="prompt",
            )

    def _length(
        self, request: UncertaintyRequest, plan: Plan, validated: Any, given: int
    ) -> dict[str, Any]:
        """`max_tokens` of a request that does not give any: its answers share what those that
        were given have left of the limit."""
        drawn = plan.n_samples if plan.needs & OF_SAMPLES and not request.samples else 0
        answers = (request.answer is None) + drawn
        limit = self.settings.max_uncertainty_tokens
        share = (limit - given) // max(answers, 1)
        name, tokens = _given_length(request, validated)
        if answers and max(tokens, 1) > share:
            name = name or "uncertainty.n_samples"
            beside = f" and {given} given ones" if given else ""
            raise VLLMValidationError(
                f"`{name}`: {answers} answers of {max(tokens, 1)} tokens{beside} are more than "
                f"{limit} (--max-uncertainty-tokens).",
                parameter=name,
                value=tokens,
            )
        if name is not None:
            return {}
        longest = self.model_config.max_model_len - 1
        if request.messages is not None and share >= longest:
            # A chat's default is all the room; vLLM 0.31 refuses a number that leaves none
            # for the prompt.
            return {}
        return {"max_tokens": max(1, min(share, longest))}

    async def _answer(
        self, plan: Plan, task: Task, request: UncertaintyRequest, progress: Progress
    ) -> UncertaintyResponse:
        start = time.perf_counter()
        stages = Stages(progress)
        gatherer = EvidenceGatherer(
            task,
            self._generator,
            self._forcing,
            self.renderer.get_tokenizer(),
            self.models.model_name(task.options.lora_request),
            stages,
        )
        gathered = await gatherer.gather()
        began = time.perf_counter()
        estimates, unavailable = await in_thread(
            self._threads, partial(estimate_all, plan, gathered)
        )
        now = time.perf_counter()
        stages.seconds["estimates"] = round(now - began, 6)
        stages.seconds["total"] = round(now - start, 6)
        return _response(plan, task, request, gathered, estimates, unavailable, stages)

    async def _events(
        self, plan: Plan, task: Task, request: UncertaintyRequest
    ) -> AsyncGenerator[str, None]:
        """Server-sent events: `progress` as stages begin and end, then the result."""
        queue: asyncio.Queue[str | None] = asyncio.Queue()

        def progress(stage: str, done: int, total: int) -> None:
            body = {"object": "uncertainty.progress", "stage": stage, "done": done, "total": total}
            queue.put_nowait(_event(json.dumps(body)))

        async def work() -> None:
            try:
                answer = await self._answer(plan, task, request, progress)
                queue.put_nowait(_event(answer.model_dump_json(exclude_unset=True)))
            except RequestError as refused:
                queue.put_nowait(_event(refused.response.model_dump_json()))
            except Exception as error:
                queue.put_nowait(_event(self.create_streaming_error_response(error)))
            finally:
                queue.put_nowait(None)

        worker = asyncio.create_task(work())
        try:
            while (event := await queue.get()) is not None:
                yield event
            yield _event("[DONE]")
        finally:
            worker.cancel()


def _given_length(request: UncertaintyRequest, validated: Any) -> tuple[str | None, int]:
    """The field that limits an answer's length, as vLLM will read it, and its value."""
    for name in _LENGTHS:
        if name in (request.model_extra or {}) and name in type(validated).model_fields:
            value = getattr(validated, name)
            if value is not None:
                return name, value
    return None, 0


def _no_text(method: Method, similarity: str, request: UncertaintyRequest) -> str | None:
    """Why a method cannot be asked about this request: what it quotes is not all text."""
    asks = bool(method.needs & _QUOTING)
    judged_here = bool(method.needs & _JUDGED) and similarity == "self_nli"
    if not (asks or judged_here):
        return None
    for i, message in enumerate(request.messages or ()):
        content = message.get("content")
        for j, part in enumerate(content if isinstance(content, list) else ()):
            if _part_text(part) is None:
                who = "quotes the question" if asks else "is judged by self_nli, which quotes it"
                return f"{who}, and `messages.{i}.content.{j}` is no text"
    return None


def _given_tokens(given: Sequence[ForcingJob]) -> int:
    return sum(len(job.text.token_ids) - job.text.num_context for job in given)


def question(request: UncertaintyRequest, tokenizer: TokenizerLike) -> str:
    """What the answer answers: the prompt, a user's only message, or all of the conversation."""
    if isinstance(request.prompt, list):
        return str(tokenizer.decode(request.prompt))
    if request.messages is None:
        return request.prompt or ""
    turns = [message for message in request.messages if message.get("role") != "system"]
    texts = [_content(message) for message in turns]
    if len(turns) == 1:
        return texts[0]
    return "\n".join(f"{m.get('role')}: {text}" for m, text in zip(turns, texts, strict=True))


def _content(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, list):
        return "".join(_part_text(part) or "" for part in content)
    return content if isinstance(content, str) else ""


def _part_text(part: Any) -> str | None:
    text = part.get("text") if isinstance(part, dict) else part
    return text if isinstance(text, str) else None


def estimate_all(
    plan: Plan, gathered: Gathered, cancelled: Cancelled
) -> tuple[dict[str, Estimate], dict[str, str]]:
    """Estimates by method, and of the other methods why there is none.

    Raises:
        CancelledError: `cancelled` turned true between two methods.
    """
    estimates, unavailable = {}, dict(plan.unavailable)
    for method in plan.methods:
        raise_if(cancelled)
        reasons = [gathered.missing[need] for need in method.needs & gathered.missing.keys()]
        if reasons:
            unavailable[method.name] = reasons[0]
        else:
            found = method.estimate(gathered.evidence)
            whole = not method.needs & gathered.inexact
            estimates[method.name] = replace(found, exact=found.exact and whole)
    return estimates, unavailable


def _response(
    plan: Plan,
    task: Task,
    request: UncertaintyRequest,
    gathered: Gathered,
    estimates: Mapping[str, Estimate],
    unavailable: dict[str, str],
    stages: Stages,
) -> UncertaintyResponse:
    clusters = _clusters(estimates)
    prompt, completion = stages.total("prompt_tokens"), stages.total("completion_tokens")
    fields: dict[str, Any] = {}
    if unavailable:
        fields["unavailable"] = unavailable
    if plan.similarity:
        fields["similarity"] = plan.similarity
    if clusters is not None:
        fields["clusters"] = clusters
    if request.uncertainty.return_samples and gathered.sample_answers:
        fields["samples"] = _samples(gathered, clusters)
    return UncertaintyResponse(
        id=task.request_id,
        object="uncertainty",
        created=int(time.time()),
        model=gathered.model,
        answer=AnswerText(
            text=gathered.answer.text,
            finish_reason=gathered.answer.finish_reason,
            num_tokens=len(gathered.answer.rows),
        ),
        estimates={
            name: MethodEstimate(
                value=finite(estimate.value),
                exact=estimate.exact,
                higher_is=METHODS[name].higher_is,
            )
            for name, estimate in estimates.items()
        },
        usage=UncertaintyUsage(
            prompt_tokens=prompt,
            completion_tokens=completion,
            total_tokens=prompt + completion,
            stages=stages.tokens,
        ),
        timings=stages.seconds,
        **fields,
    )


def _samples(gathered: Gathered, clusters: list[int] | None) -> list[SampleText]:
    samples = []
    for index, sample in enumerate(gathered.sample_answers):
        samples.append(
            SampleText(
                text=sample.text,
                finish_reason=sample.finish_reason,
                num_tokens=len(sample.rows) if sample.scored else None,
                logprob=finite(sum_logprob(sample.rows.logprobs)),
                mean_logprob=finite(mean_logprob(sample.rows.logprobs)),
                cluster=clusters[index] if clusters else None,
            )
        )
    return samples


def _clusters(estimates: Mapping[str, Estimate]) -> list[int] | None:
    """Number of each sample's meaning, where a method has told meanings apart."""
    for estimate in estimates.values():
        if estimate.details and "classes" in estimate.details:
            return [int(number) for number in estimate.details["classes"]]
    return None


def _event(data: str) -> str:
    return f"data: {data}\n\n"


def similarity_models(settings: ConfidenceSettings) -> dict[str, Any]:
    """Load the models that the flags name.

    Raises:
        SettingsError: naming the flag whose model cannot be loaded.
    """
    loaders: dict[str, tuple[str, str | None, Callable[[str, str], Any]]] = {
        "embedding": ("--embedding-model", settings.embedding_model, _embedding),
        "nli": ("--nli-model", settings.nli_model, _nli),
    }
    models = {}
    for name, (flag, path, load) in loaders.items():
        if path is None:
            continue
        try:
            models[name] = load(path, settings.similarity_device)
        except (OSError, ValueError, RuntimeError) as error:
            raise SettingsError(f"{flag} {path}: {error}") from error
    return models


def _embedding(path: str, device: str) -> Any:
    from conf_server.judges.embedding import EmbeddingModel

    return EmbeddingModel(path, device)


def _nli(path: str, device: str) -> Any:
    from conf_server.judges.nli import NliModel

    return NliModel(path, device)
