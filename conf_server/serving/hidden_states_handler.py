"""/v1/hidden_states: what the layers of the model make of any text, on the engine that serves."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Sequence

import numpy as np
from fastapi import Request
from numpy.typing import NDArray
from pydantic_core import to_json
from vllm.entrypoints.serve.engine.protocol import ErrorResponse

from conf_server.backends.base import ForcingJob
from conf_server.serving.forcing_handler import ServingForced
from conf_server.serving.hidden_states_protocol import (
    HiddenStatesRequest,
    HiddenStatesResponse,
)
from conf_server.serving.refusals import refused
from conf_server.stats.forced import ForcedStates, WantedStates


class ServingHiddenStates(ServingForced):
    """Handler of POST /v1/hidden_states."""

    async def create_hidden_states(
        self, request: HiddenStatesRequest, raw_request: Request | None = None
    ) -> bytes | ErrorResponse:
        """Validate every item, then let the model read them all.

        Returns:
            The body of the answer: JSON of a `HiddenStatesResponse`, or a safetensors file where
            the request wants one.

        Raises:
            VLLMValidationError, RefusalError: naming the field; the engine has seen nothing yet.
        """
        limits = self._backend.limits()
        if error := await self._obstacle(request, limits.states):
            return error
        wanted = request.wanted(limits.num_layers)
        request.check_count(self.settings.max_score_items)
        jobs = await self._backend.prepare(
            item.forcing_item(path) for path, item in request.each_item()
        )
        self._check_size(jobs, wanted, limits.hidden_size)
        self._preflight(len(jobs))
        lora_request = self._maybe_get_adapters(request)  # type: ignore[arg-type]
        caller = self._caller("hidden", request, raw_request)
        found = await self._backend.states(jobs, wanted, caller)
        answer = HiddenStatesResponse(
            id=caller.request_id,
            object="hidden_states",
            created=int(time.time()),
            model=self.models.model_name(lora_request),
            layers=list(wanted.layers),
            data=[],
            usage=self._usage(jobs, sum(one.num_cached for one in found)),
        )
        counts = [_num_counted(job, wanted) for job in jobs]
        # It may be many megabytes: other requests go on meanwhile.
        return await asyncio.to_thread(_encode, answer, request, found, counts)

    def _check_size(self, jobs: Sequence[ForcingJob], wanted: WantedStates, size: int) -> None:
        layers, limit = len(wanted.layers), self.settings.max_hidden_state_values
        pooled = wanted.pooling != "none"
        vectors = sum(1 if pooled else _num_counted(job, wanted) for job in jobs)
        count = layers * vectors * size
        if count > limit:
            message = (
                f"{layers} layers of {vectors} vectors of {size} numbers are {count} numbers, at "
                f"most {limit} a response (--max-hidden-state-values)."
            )
            raise refused("layers" if pooled else "pooling", message)


def _num_counted(job: ForcingJob, wanted: WantedStates) -> int:
    return job.num_scored if wanted.completion_only else len(job.text.token_ids)


def _encode(
    answer: HiddenStatesResponse,
    request: HiddenStatesRequest,
    found: Sequence[ForcedStates],
    counts: Sequence[int],
) -> bytes:
    """The answer's body, with the states in it as the request wants them."""
    tensors = [np.ascontiguousarray(forced.states, np.dtype("<f4")) for forced in found]
    if request.encoding_format == "safetensors":
        return _as_file(answer, request, tensors, counts)
    return _as_json(answer, request, tensors, counts)


def _as_json(
    answer: HiddenStatesResponse,
    request: HiddenStatesRequest,
    tensors: Sequence[NDArray[np.float32]],
    counts: Sequence[int],
) -> bytes:
    """A `HiddenStatesResponse`, piece by piece: pydantic would make all of it in one call, and
    hold up the server's other requests for as long as that takes.
    """
    as_json = _as_base64 if request.encoding_format == "base64" else _as_lists
    results = [
        b'{"index":%d,"num_tokens":%d,"shape":%b,"states":%b}'
        % (index, num_tokens, to_json(tensor.shape), as_json(tensor))
        for index, (tensor, num_tokens) in enumerate(zip(tensors, counts, strict=True))
    ]
    # It stands there once, whatever the model's name is: quotes within strings are escaped.
    before, _, after = answer.model_dump_json(exclude_unset=True).encode().partition(b'"data":[]')
    return b"".join([before, b'"data":[', b",".join(results), b"]", after])


def _as_file(
    answer: HiddenStatesResponse,
    request: HiddenStatesRequest,
    tensors: Sequence[NDArray[np.float32]],
    counts: Sequence[int],
) -> bytes:
    """One tensor a text, `states.INDEX`; the format's metadata are strings, here of JSON."""
    from safetensors.numpy import save

    facts = {
        "id": answer.id,
        "model": answer.model,
        "layers": answer.layers,
        "pooling": request.pooling,
        "num_tokens": list(counts),
    }
    named = {f"states.{index}": tensor for index, tensor in enumerate(tensors)}
    return save(named, {name: json.dumps(fact) for name, fact in facts.items()})


def _as_base64(tensor: NDArray[np.float32]) -> bytes:
    return b'"%b"' % base64.b64encode(tensor.data)


def _as_lists(tensor: NDArray[np.float32]) -> bytes:
    layers = (
        b",".join(to_json(vector.tolist(), inf_nan_mode="null") for vector in layer)
        for layer in tensor
    )
    return b"[[%b]]" % b"],[".join(layers)
