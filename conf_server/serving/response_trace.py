"""What the answer of one request to /v1/responses gains, whole and streamed.

vLLM tells no token apart: the log-probabilities of a text are those of all tokens that were
generated, and of a streamed text those of the steps that brought it. Here a stream that has nothing
but its text ends with what the whole answer has.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing
from typing import Any, Final

from openai.types.responses import (
    ResponseContentPartDoneEvent,
    ResponseCreatedEvent,
    ResponseInProgressEvent,
    ResponseOutputItemAddedEvent,
    ResponseOutputItemDoneEvent,
    ResponseOutputMessage,
    ResponseOutputText,
    ResponseTextDeltaEvent,
    ResponseTextDoneEvent,
)
from openai.types.responses.response_output_text import Logprob, LogprobTopLogprob
from openai.types.responses.response_text_delta_event import Logprob as DeltaLogprob
from openai.types.responses.response_text_delta_event import (
    LogprobTopLogprob as DeltaTopLogprob,
)
from pydantic import BaseModel
from vllm.entrypoints.openai.responses.protocol import ResponsesResponse

from conf_server.serving.default_estimates import DefaultEstimates
from conf_server.serving.deltas import request_tracers
from conf_server.serving.logprob_entries import LogprobEntries
from conf_server.serving.responses_request import ConfidenceResponsesRequest
from conf_server.serving.token_decoding import Decode
from conf_server.serving.trace_delta import TraceDelta

_ENTRIES: Final = LogprobEntries(Logprob, LogprobTopLogprob)
_NOT_ESTIMATED: Final = "/v1/responses has the metrics of an answer's own tokens alone"
_ENDS: Final = (ResponseTextDoneEvent, ResponseContentPartDoneEvent, ResponseOutputItemDoneEvent)
"""Events that close a text. Whether it was the whole answer shows in what follows them."""


class ResponseTrace:
    """The tokens of one request's answer, as vLLM's handler comes to them."""

    def __init__(
        self,
        request: ConfidenceResponsesRequest,
        decode: Decode,
        as_token_ids: bool,
        defaults: DefaultEstimates | None,
    ) -> None:
        """
        Args:
            request: with its confidence resolved.
            as_token_ids: show `token_id:N` instead of text.
            defaults: estimates of the server's, which answers of this route say they have not.
        """
        self._request = request
        (self._tracer,) = request_tracers(request, 1)
        self._decode = decode
        self._as_token_ids = as_token_ids
        self._defaults = defaults
        self._delta: TraceDelta | None = None
        self._num_shown = 0
        self._entries: list[Logprob] = []
        self._closed: ResponseOutputText | None = None
        self._is_only_text = True

    async def follow(self, contexts: AsyncIterator[Any]) -> AsyncGenerator[Any, None]:
        """Pass on vLLM's contexts, and take note of the tokens of their last outputs."""
        async with aclosing(contexts):  # type: ignore[type-var]
            async for context in contexts:
                if context.last_output is not None and context.last_output.outputs:
                    self._tracer.annotate(context.last_output)
                    self._delta = context.last_output.outputs[0].logprobs
                yield context

    def complete(self, response: ResponsesResponse) -> None:
        """Give the answer its summary, and its text the entries that it lacks."""
        self.correct(response)
        extras = self._extras()
        _set(response, extras)
        texts = list(_texts(response))
        if not texts or self._delta is None:
            return
        is_only_text = len(response.output) == 1
        if not self._request.stream:
            texts[0].logprobs = self._between(0, self._delta.stop)
        else:
            if is_only_text:
                self._show_up_to(self._delta.stop)
            # vLLM 0.31 makes other objects of the text than those that its events have.
            texts[-1].logprobs = self._entries
        if is_only_text:
            for text in (texts[0], self._closed or texts[0]):
                _set(text, extras)

    def correct(self, response: ResponsesResponse) -> None:
        """Say how many candidates the client wants: vLLM says what the engine was asked for."""
        response.top_logprobs = self._request.top_logprobs

    def see(self, event: Any) -> None:
        """Put into an event of a stream what it is to have beside vLLM's fields."""
        if isinstance(event, (ResponseCreatedEvent, ResponseInProgressEvent)):
            response: Any = event.response
            self.correct(response)
        elif isinstance(event, ResponseOutputItemAddedEvent):
            if event.item.type == "message":
                self._entries = []
            else:
                self._is_only_text = False
        elif isinstance(event, ResponseTextDeltaEvent) and self._delta is not None:
            if not self._is_only_text:
                self._num_shown = max(self._num_shown, self._delta.start)
            event.logprobs = [_of_delta(entry) for entry in self._show_up_to(self._delta.stop)]
        elif isinstance(event, ResponseContentPartDoneEvent):
            self._close(event.part)

    def _close(self, part: Any) -> None:
        if isinstance(part, ResponseOutputText):
            # This very list grows if the answer ends here with tokens that have no text.
            part.logprobs = self._entries
            self._closed = part

    def _show_up_to(self, stop: int) -> list[Logprob]:
        """The entries that are due before `stop`, which the streamed text now has as well."""
        entries = self._between(self._num_shown, stop)
        self._num_shown = stop
        self._entries += entries
        return entries

    def _between(self, start: int, stop: int) -> list[Logprob]:
        confidence, delta = self._request.resolved_confidence, self._delta
        assert confidence is not None
        assert delta is not None
        if confidence.mode in ("stats", "empty") or start >= stop:
            return []
        shown = self._request.shown_candidates if confidence.mode == "per_token" else 0
        part = TraceDelta(confidence, delta.trace, start, stop, finished=False)
        return _ENTRIES.of(part, shown, self._decode, self._as_token_ids)

    def _extras(self) -> dict[str, Any]:
        extras = {} if self._delta is None else self._delta.extras()
        confidence, defaults = self._request.resolved_confidence, self._defaults
        if not extras or defaults is None or confidence is None or not confidence.takes_defaults:
            return extras
        if missing := defaults.missing(_NOT_ESTIMATED):
            extras["uncertainty"] = {**extras.get("uncertainty", {}), **missing}
        return extras


async def with_confidence(
    events: AsyncGenerator[Any, None], trace: ResponseTrace
) -> AsyncGenerator[Any, None]:
    """Pass on `events` with confidence in them; a text's last ones wait for what follows them."""
    held: list[Any] = []
    async with aclosing(events):
        async for event in events:
            trace.see(event)
            if isinstance(event, _ENDS):
                held.append(event)
                continue
            for ending in held:
                yield ending
            held.clear()
            yield event
    for ending in held:
        yield ending


def _texts(response: ResponsesResponse) -> Iterator[ResponseOutputText]:
    for item in response.output:
        if isinstance(item, ResponseOutputMessage):
            for part in item.content:
                if isinstance(part, ResponseOutputText):
                    yield part


def _set(answer: BaseModel, extras: dict[str, Any]) -> None:
    for name, value in extras.items():
        setattr(answer, name, value)


def _of_delta(entry: Logprob) -> DeltaLogprob:
    """An entry as the events of a stream have it: without bytes."""
    candidates = [
        DeltaTopLogprob.model_construct(token=candidate.token, logprob=candidate.logprob)
        for candidate in entry.top_logprobs
    ]
    return DeltaLogprob.model_construct(
        token=entry.token,
        logprob=entry.logprob,
        top_logprobs=candidates,
        **(entry.model_extra or {}),
    )
