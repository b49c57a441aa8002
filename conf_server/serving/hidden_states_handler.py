"""/v1/hidden_states: what the layers of the model make of any text, on the engine that serves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import asdict

from fastapi import Request

from conf_server.backends.base import Backend, ForcingJob, Limits
from conf_server.refusal import RefusalError
from conf_server.serving.forcing_handler import ServingForced, not_here
from conf_server.serving.hidden_states_encoding import encode
from conf_server.serving.hidden_states_protocol import (
    HiddenStatesModel,
    HiddenStatesRequest,
    HiddenStatesResponse,
)
from conf_server.serving.host import Host
from conf_server.settings import ConfidenceSettings
from conf_server.stats.forced import WantedStates
from conf_server.uncertainty.fitted import ModelIdentity


class ServingHiddenStates(ServingForced):
    """Handler of GET and POST /v1/hidden_states."""

    def __init__(
        self,
        host: Host,
        backend: Backend,
        settings: ConfidenceSettings,
        identity: ModelIdentity | None = None,
    ) -> None:
        """
        Args:
            identity: of the model; None where it gives no hidden states.
        """
        super().__init__(host, backend, settings)
        self._identity = identity

    def describe(self) -> HiddenStatesModel:
        """What the model is.

        Raises:
            RefusalError: of status 501, where it gives no hidden states.
        """
        if self._identity is None:
            raise not_here(self._backend.limits().states or "there are no hidden states")
        heads = self._backend.limits().num_heads
        return HiddenStatesModel(**asdict(self._identity), num_heads=heads)

    async def create_hidden_states(
        self, request: HiddenStatesRequest, raw_request: Request | None = None
    ) -> bytes:
        """Validate every item, then let the model read them all.

        Returns:
            The body of the answer: JSON of a `HiddenStatesResponse`, or a safetensors file where
            the request wants one.

        Raises:
            RefusalError: naming the field; the engine has seen nothing yet.
        """
        limits = self._backend.limits()
        model = await self._host.model_name(request)
        if limits.states:
            raise not_here(limits.states)
        wanted = request.wanted(limits.num_layers)
        self._check_layers(wanted, limits)
        request.check_count(self.settings.max_score_items)
        jobs = await self._backend.prepare(
            item.forcing_item(path) for path, item in request.each_item()
        )
        self._check_contexts(jobs, request)
        self._check_size(jobs, wanted, limits)
        self._host.check_room(len(jobs))
        caller = self._caller("hidden", request, raw_request)
        found = await self._backend.states(jobs, wanted, caller)
        answer = HiddenStatesResponse(
            id=caller.request_id,
            object="hidden_states",
            created=int(time.time()),
            model=model,
            layers=list(wanted.layers),
            **_attention_layers(wanted),
            data=[],
            usage=self._usage(jobs, sum(one.num_cached for one in found)),
        )
        counts = [_num_counted(job, wanted) for job in jobs]
        # It may be many megabytes: other requests go on meanwhile.
        contexts = [job.text.num_context for job in jobs]
        return await asyncio.to_thread(encode, answer, request, found, counts, contexts)

    def _check_size(self, jobs: Sequence[ForcingJob], wanted: WantedStates, limits: Limits) -> None:
        limit = self.settings.max_hidden_state_values
        layers, pooled = len(wanted.layers), wanted.pooling != "none"
        vectors = sum(1 if pooled else _num_counted(job, wanted) for job in jobs)
        count = layers * vectors * limits.hidden_size
        if count > limit:
            message = (
                f"{layers} layers of {vectors} vectors of {limits.hidden_size} numbers are {count} "
                f"numbers, at most {limit} a response (--max-hidden-state-values)."
            )
            raise RefusalError("layers" if pooled else "pooling", message)
        weights = sum(_num_weights(job, wanted) for job in jobs) * limits.num_heads
        if count + weights > limit:
            message = (
                f"{weights} weights and {count} numbers of hidden states, at most {limit} together "
                "a response (--max-hidden-state-values)."
            )
            raise RefusalError("attention", message)

    def _check_contexts(self, jobs: Sequence[ForcingJob], request: HiddenStatesRequest) -> None:
        if request.attention is None or not request.attention.lookback:
            return
        for job in jobs:
            if not job.text.num_context:
                raise RefusalError(
                    "attention.lookback", f"`{job.path}` has no context to look back at."
                )

    def _check_layers(self, wanted: WantedStates, limits: Limits) -> None:
        for layer in wanted.attention.layers if wanted.attention is not None else ():
            if reason := limits.attention[layer]:
                raise RefusalError("attention.layers", f"no weights of layer {layer}: {reason}.")


def _attention_layers(wanted: WantedStates) -> dict[str, list[int]]:
    attention = wanted.attention
    return {} if attention is None else {"attention_layers": list(attention.layers)}


def _num_weights(job: ForcingJob, wanted: WantedStates) -> int:
    """Weights of one head that a text's answer holds."""
    attention = wanted.attention
    if attention is None:
        return 0
    of_token = attention.history + attention.context_mass
    of_last = len(job.text.token_ids) if attention.last_on is not None else 0
    return len(attention.layers) * (_num_counted(job, wanted) * of_token + of_last)


def _num_counted(job: ForcingJob, wanted: WantedStates) -> int:
    return job.num_scored if wanted.completion_only else len(job.text.token_ids)
