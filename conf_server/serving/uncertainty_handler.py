"""POST /v1/uncertainty: how sure the model is of an answer."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Mapping
from typing import Any

from fastapi import Request

from conf_server.gathering.estimation import Estimator, Outcome, Work
from conf_server.gathering.gather import Gathered
from conf_server.gathering.metered import Stages
from conf_server.refusal import RefusalError
from conf_server.serving.confidence import finite
from conf_server.serving.fields import request_id
from conf_server.serving.host import Host
from conf_server.serving.refusals import refusal_event
from conf_server.serving.uncertainty_protocol import (
    AnswerText,
    FitDescription,
    MethodDescription,
    MethodEstimate,
    MethodList,
    SampleText,
    UncertaintyRequest,
    UncertaintyResponse,
    UncertaintyUsage,
)
from conf_server.stats.sequence import mean_logprob, sum_logprob
from conf_server.uncertainty.estimate import Estimate
from conf_server.uncertainty.fitted import FITTABLE
from conf_server.uncertainty.registry import GROUPS, METHODS

_SHOWN_APART = "classes"
"""A detail of estimates that stands in the answer's `clusters`."""


class ServingUncertainty:
    """Handler of POST /v1/uncertainty and GET /v1/uncertainty/methods."""

    def __init__(
        self, host: Host, estimator: Estimator, default_methods: tuple[str, ...] = ()
    ) -> None:
        """
        Args:
            default_methods: where a request names none; the protocol's default without any.
        """
        self._host = host
        self._estimator = estimator
        self._default_methods = default_methods

    def methods(self) -> MethodList:
        """All methods, and which of them this server can do."""
        planner = self._estimator.planner()
        data = []
        for name, method in METHODS.items():
            reason = planner.obstacle(method, planner.default_similarity)
            side = planner.side(method)
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
                    fit=self._fit(name),
                    backend=None if side is None else side.value,
                )
            )
        return MethodList(
            data=data,
            groups={group: list(names) for group, names in GROUPS.items()},
            similarities=self._estimator.similarities,
            default_similarity=planner.default_similarity,
        )

    def _fit(self, name: str) -> FitDescription | None:
        fitted = self._estimator.fitted
        if fitted is None or name not in fitted.methods:
            return None
        method = fitted.methods[name]
        return FitDescription(
            layer=method.layer, pooling=FITTABLE[name].pooled, texts=method.num_texts
        )

    async def create_uncertainty(
        self, request: UncertaintyRequest, raw_request: Request | None = None
    ) -> UncertaintyResponse | AsyncGenerator[str, None]:
        """Validate everything, then gather and estimate.

        Raises:
            RefusalError: naming the field; the engine has seen nothing yet.
        """
        model = await self._host.model_name(request)
        name = f"uncertainty-{request_id(raw_request, request.request_id)}"
        inquiry = request.inquiry(name, _headers(raw_request), self._default_methods)
        # What vLLM refuses is a 400 for a stream too, and no event after a 200.
        work = await self._estimator.prepare(inquiry, check=request.stream)
        self._host.check_room(1 + work.plan.n_samples)
        if request.stream:
            return self._events(work, request, model)
        return _response(work, request, model, await work.run(lambda *_: None))

    async def _events(
        self, work: Work, request: UncertaintyRequest, model: str
    ) -> AsyncGenerator[str, None]:
        """Server-sent events: `progress` as stages begin and end, then the result."""
        queue: asyncio.Queue[str | None] = asyncio.Queue()

        def progress(stage: str, done: int, total: int) -> None:
            body = {"object": "uncertainty.progress", "stage": stage, "done": done, "total": total}
            queue.put_nowait(_event(json.dumps(body)))

        async def answer() -> None:
            try:
                made = _response(work, request, model, await work.run(progress))
                queue.put_nowait(_event(made.model_dump_json(exclude_unset=True)))
            except RefusalError as error:
                queue.put_nowait(refusal_event(error))
            except Exception as error:
                queue.put_nowait(_event(json.dumps(self._host.failure(error).model_dump())))
            finally:
                queue.put_nowait(None)

        worker = asyncio.create_task(answer())
        try:
            while (event := await queue.get()) is not None:
                yield event
            yield _event("[DONE]")
        finally:
            worker.cancel()


def _headers(raw_request: Request | None) -> dict[str, str]:
    return {} if raw_request is None else dict(raw_request.headers)


def _response(
    work: Work, request: UncertaintyRequest, model: str, outcome: Outcome
) -> UncertaintyResponse:
    """
    Args:
        model: the name of the one that was asked; it answers under the same one where it generates.
    """
    fields = _fields(outcome, request.uncertainty.return_samples)
    if outcome.unavailable:
        fields["unavailable"] = outcome.unavailable
    if work.plan.similarity:
        fields["similarity"] = work.plan.similarity
    return UncertaintyResponse(
        id=work.task.caller.request_id,
        object="uncertainty",
        created=int(time.time()),
        model=outcome.gathered.model or model,
        usage=_usage(outcome.stages),
        timings=outcome.stages.seconds,
        **fields,
    )


def _fields(outcome: Outcome, return_samples: bool) -> dict[str, Any]:
    """What was gathered and estimated, as the answer shows it."""
    gathered, estimates = outcome.gathered, outcome.estimates
    clusters = _clusters(estimates)
    fields: dict[str, Any] = {
        "answer": AnswerText(
            text=gathered.answer.text,
            finish_reason=gathered.answer.finish_reason,
            num_tokens=len(gathered.answer.rows),
        ),
        "estimates": {
            name: _estimate(name, found, name in outcome.scored)
            for name, found in estimates.items()
        },
    }
    if clusters is not None:
        fields["clusters"] = clusters
    if return_samples and gathered.samples:
        fields["samples"] = _samples(gathered, clusters)
    return fields


def _estimate(name: str, found: Estimate, scored: bool) -> MethodEstimate:
    fields: dict[str, Any] = {"backend": "scorer"} if scored else {}
    details = {key: value for key, value in (found.details or {}).items() if key != _SHOWN_APART}
    if details:
        fields["details"] = details
    return MethodEstimate(
        value=finite(found.value), exact=found.exact, higher_is=METHODS[name].higher_is, **fields
    )


def _samples(gathered: Gathered, clusters: list[int] | None) -> list[SampleText]:
    samples = []
    for index, sample in enumerate(gathered.samples):
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
    for found in estimates.values():
        if found.details and _SHOWN_APART in found.details:
            return [int(number) for number in found.details[_SHOWN_APART]]
    return None


def _usage(stages: Stages) -> UncertaintyUsage:
    prompt, completion = stages.total("prompt_tokens"), stages.total("completion_tokens")
    return UncertaintyUsage(
        prompt_tokens=prompt,
        completion_tokens=completion,
        total_tokens=prompt + completion,
        stages=stages.tokens,
    )


def _event(data: str) -> str:
    return f"data: {data}\n\n"
