"""The default estimates of vLLM's answers, which are added when an answer is complete."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from conf_server.backends.base import Caller
from conf_server.serving.default_estimates import DefaultEstimates
from conf_server.serving.deltas import DeltaTracer
from conf_server.serving.event_stream import event
from conf_server.serving.requests import ConfidenceRequest


class AnswerEstimates:
    """The default estimates of one request's answers."""

    def __init__(
        self,
        defaults: DefaultEstimates,
        request: ConfidenceRequest,
        tracers: Sequence[DeltaTracer],
    ) -> None:
        """
        Args:
            tracers: one for each prompt, which have seen all tokens when an answer is complete.
        """
        self._defaults = defaults
        self._prompts = request.prompts()
        self._unrepeatable = request.unrepeatable()
        self._tracers = tracers
        self._n = getattr(request, "n", None) or 1
        fields: Any = request
        self._caller = Caller(
            fields.request_id,
            fields.model,
            fields.cache_salt,
            fields.priority,
            request.headers,
        )

    async def add(self, choice: Mapping[str, Any], logprobs: dict[str, Any]) -> None:
        """Put the estimates of an answer that has ended beside its metrics.

        Args:
            choice: with the number of the answer, and why it has ended.
            logprobs: what it has of log-probabilities, with its summary.
        """
        index = choice["index"]
        place, number = divmod(index, self._n)
        token_ids = self._tracers[place].traces[number].all().token_ids.tolist()
        finished = choice["finish_reason"] == "stop" and choice.get("stop_reason") is None
        if self._unrepeatable is not None:
            # The numbers would be those of another prompt.
            reason = f"the prompt holds what `{self._unrepeatable}` has made of it"
            found = self._defaults.missing(reason)
        else:
            found = await self._defaults.of(
                self._prompts[place], token_ids, finished, self._caller.at(str(index))
            )
        logprobs["uncertainty"] = {**(logprobs.get("uncertainty") or {}), **found}


def estimates_for(
    defaults: DefaultEstimates | None, request: Any, tracers: Sequence[DeltaTracer]
) -> AnswerEstimates | None:
    """The estimates that a request's answers get; None where they get none."""
    if defaults is None or not defaults.methods or not tracers:
        return None
    confidence = request.resolved_confidence
    if confidence.mode == "empty" or not confidence.takes_defaults:
        return None
    return AnswerEstimates(defaults, request, tracers)


async def with_estimates(
    chunks: AsyncGenerator[str, None], estimates: AnswerEstimates
) -> AsyncGenerator[str, None]:
    """Pass on `chunks`; the last one of each answer waits for its estimates and carries them."""
    async with aclosing(chunks):
        async for line in chunks:
            # Quotes inside of a JSON string are escaped: this is the name of a field.
            if '"confidence_summary":' in line:
                chunk = json.loads(line.removeprefix("data: "))
                for choice in chunk["choices"]:
                    if "confidence_summary" in (choice.get("logprobs") or {}):
                        await estimates.add(choice, choice["logprobs"])
                line = event(chunk)
            yield line


async def add_estimates(choices: Sequence[Any], estimates: AnswerEstimates | None) -> None:
    """The same for the choices of a whole answer, vLLM's objects."""
    for choice in choices if estimates is not None else ():
        logprobs = choice.logprobs
        if getattr(logprobs, "confidence_summary", None) is None:
            continue
        fields = {"uncertainty": getattr(logprobs, "uncertainty", None)}
        assert estimates is not None
        await estimates.add(vars(choice), fields)
        logprobs.uncertainty = fields["uncertainty"]
