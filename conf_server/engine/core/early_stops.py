"""Ending answers in the scheduler, where their rows are before anything is shipped."""

from __future__ import annotations

from functools import cached_property
from typing import Final

import numpy as np
from vllm.sampling_params import SamplingParams
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.request import Request, RequestStatus

from conf_server.engine.marks import early_stop_of
from conf_server.stats.columns import TokenStatistic
from conf_server.stats.early_stop import STOP_REASON, ConfidenceWindow
from conf_server.stats.row_layout import ColumnGroup, EngineRows, RowLayout

_STATISTICS: Final = RowLayout(0, (ColumnGroup.STATISTICS,))
"""All requests of a step share its rows, so that their statistics stand in the same columns."""


class _StepConfidences:
    """The confidences of all tokens of a step.

    They become Python's numbers at once, when the first request asks: to slice the step's arrays
    for every request would take most of the time.
    """

    def __init__(self, output: ModelRunnerOutput) -> None:
        self._places = output.req_id_to_index
        self._rows = output.logprobs

    def of(self, request_id: str, num_new: int) -> list[float]:
        """Those of a request's new tokens, in nats; none where the rows have no statistics.

        The output processor ends a request with an error if its rows are not its own.
        """
        first = self._places[request_id]
        if self._firsts is not None:
            first = self._firsts[first]
        return self._values[first : first + num_new]

    @cached_property
    def _firsts(self) -> list[int] | None:
        return None if self._rows is None else self._rows.cu_num_generated_tokens

    @cached_property
    def _values(self) -> list[float]:
        if self._rows is None:
            return []
        own = _STATISTICS.narrowed(EngineRows(*self._rows[:3]), np.concatenate)
        if own is None:
            return []
        _, groups = _STATISTICS.split(own.logprobs)
        values: list[float] = groups[ColumnGroup.STATISTICS][:, TokenStatistic.CONFIDENCE].tolist()
        return values


class EarlyStops:
    """The running requests that are marked `SamplesMark.early_stop`."""

    def __init__(self) -> None:
        self._windows: dict[str, ConfidenceWindow | None] = {}
        self._step: _StepConfidences | None = None

    def __len__(self) -> int:
        """How many requests are known here."""
        return len(self._windows)

    def begin_step(self, output: ModelRunnerOutput) -> None:
        """Note what the workers have made, which the scheduler is about to go through."""
        self._step = _StepConfidences(output)

    def end_step(self) -> None:
        """Let the workers' arrays go."""
        self._step = None

    def stops(self, request: Request, num_new: int) -> bool:
        """Whether a request ends with the tokens that it has just been given.

        Then its status says so. Tokens that count for `min_tokens` of the sampling parameters
        come first, as with vLLM's own reasons.

        Args:
            num_new: how many tokens these are.
        """
        params = request.sampling_params
        if self._step is None or params is None or not params.extra_args:
            return False
        name = request.request_id
        try:
            window = self._windows[name]
        except KeyError:  # asked in every step, so that it is kept either way
            window = self._windows[name] = _window(params)
        if window is None:
            return False
        thinking = window.rule.thinking
        if thinking is not None and thinking.end_with(request.output_token_ids, num_new):
            self._windows[name] = None
            return False
        ends = False
        for confidence in self._step.of(name, num_new):
            ends |= window.push(confidence)
        if not ends or request.num_output_tokens < params.min_tokens:
            return False
        request.status = RequestStatus.FINISHED_STOPPED
        request.stop_reason = STOP_REASON
        return True

    def forget(self, request_id: str) -> None:
        """Drop what is known of a request; it may be nothing."""
        self._windows.pop(request_id, None)


def _window(params: SamplingParams) -> ConfidenceWindow | None:
    rule = early_stop_of(params)
    return None if rule is None else ConfidenceWindow(rule)
