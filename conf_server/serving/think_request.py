"""POST /v1/think/chat/completions: the request, and those of its traces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, Self

from pydantic import Field, PrivateAttr
from vllm.config import ModelConfig
from vllm.sampling_params import RequestOutputKind, SamplingParams

from conf_server.engine.marks import send_rows_early
from conf_server.gathering.trace_maker import TraceOrder, Watch
from conf_server.refusal import RefusalError
from conf_server.serving.confidence import refuse_stop_reason
from conf_server.serving.requests import ConfidenceChatCompletionRequest
from conf_server.serving.think_protocol import ThinkOptions, traced_confidence
from conf_server.settings import ConfidenceSettings

_NOT_HERE: Final = (
    *("use_beam_search", "logprob_token_ids", "prompt_logprobs", "kv_transfer_params", "echo"),
)
"""Fields that have no meaning for many traces, or would cost for each what one needs."""


class ThinkRequest(ConfidenceChatCompletionRequest):
    """A chat that is answered many times, and voted on."""

    think: ThinkOptions = Field(
        default_factory=ThinkOptions,
        description="How often to think, which traces to end, and how they vote.",
    )
    _rendered: tuple[Sequence[Any], Mapping[str, Any]] | None = PrivateAttr(default=None)
    _watch: Watch | None = PrivateAttr(default=None)

    def check(self) -> None:
        """
        Raises:
            RefusalError: naming a field that has no place here.
        """
        if self.n not in (None, 1):
            raise RefusalError("n", "must be 1: `think.budget` says how many traces.", self.n)
        refuse_stop_reason(self.stop)
        for name in _NOT_HERE:
            if getattr(self, name, None):
                raise RefusalError(name, "not available in /v1/think.")

    def resolve_traces(self, settings: ConfidenceSettings, model_config: ModelConfig) -> None:
        """Decide what traces are asked for, and what the answer carries.

        Raises:
            RefusalError: as `resolve_confidence`.
        """
        self.confidence = traced_confidence(
            self.think, self.confidence, settings, bool(self.logprobs)
        )
        self.resolve_confidence(settings, model_config)

    @property
    def rendered(self) -> tuple[Sequence[Any], Mapping[str, Any]]:
        """The conversation and the engine's input, which all traces share."""
        assert self._rendered is not None
        return self._rendered

    @rendered.setter
    def rendered(self, rendered: tuple[Sequence[Any], Mapping[str, Any]]) -> None:
        self._rendered = rendered

    @property
    def watch(self) -> Watch | None:
        """Who wants to see the trace grow."""
        return self._watch

    def of_trace(self, name: str, order: TraceOrder, watch: Watch | None) -> Self:
        """The request of one trace.

        Args:
            name: the request's in the engine.
        """
        fields = {
            "request_id": name,
            "n": 1,
            "seed": order.seed,
            "max_completion_tokens": order.max_tokens,
            # vLLM sends what there is of an answer while it is made only where it is streamed.
            "stream": False,
            "stream_options": None,
        }
        trace = self.model_copy(update=fields)
        assert self.resolved_confidence is not None
        trace.preset_confidence(replace(self.resolved_confidence, early_stop=order.early_stop))
        trace._watch = watch
        return trace

    def to_sampling_params(self, *args: Any, **kwargs: Any) -> SamplingParams:
        params = super().to_sampling_params(*args, **kwargs)
        if self._watch is not None:
            params.output_kind = RequestOutputKind.DELTA
            send_rows_early(params)
        return params
