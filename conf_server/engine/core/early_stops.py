"""Ending answers in the scheduler, where their rows are before anything is shipped."""

from __future__ import annotations

from typing import Any

import numpy as np
from vllm.v1.outputs import LogprobsLists, ModelRunnerOutput
from vllm.v1.request import Request, RequestStatus

from conf_server.engine.marks import SamplesMark, mark_of
from conf_server.stats.columns import TokenStatistic
from conf_server.stats.early_stop import STOP_REASON, ConfidenceWindow
from conf_server.stats.row_layout import ColumnGroup, EngineRows, RowLayout


class _Watched:
    """An answer that may be ended.

    Attributes:
        layout: its rows' columns.
        window: its last confidences.
    """

    __slots__ = ("layout", "window")

    def __init__(self, layout: RowLayout, window: ConfidenceWindow) -> None:
        self.layout = layout
        self.window = window

    def push(self, rows: LogprobsLists) -> bool:
        """Take in the rows of a step. Returns whether the answer ends with the last of them.

        Rows that do not have the request's columns say nothing; the output processor ends their
        request with an error.
        """
        own = self.layout.narrowed(EngineRows(*rows[:3]), np.concatenate)
        if own is None:
            return False
        _, groups = self.layout.split(own.logprobs)
        values = groups[ColumnGroup.STATISTICS][:, TokenStatistic.CONFIDENCE]
        ends = [self.window.push(value) for value in values.tolist()]
        return any(ends)


class EarlyStops:
    """The running requests that are marked `SamplesMark.early_stop`."""

    def __init__(self) -> None:
        self._watched: dict[str, _Watched | None] = {}
        self._step: ModelRunnerOutput | None = None

    def __len__(self) -> int:
        """How many requests are known here."""
        return len(self._watched)

    def begin_step(self, output: ModelRunnerOutput) -> None:
        """Note what the workers have made, which the scheduler is about to go through."""
        self._step = output

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
        if params is None or not params.extra_args:
            return False
        watched = self._of(request)
        step = self._step
        if watched is None or step is None or not step.logprobs:
            return False
        index = step.req_id_to_index[request.request_id]
        if not watched.push(step.logprobs.slice_request(index, num_new)):
            return False
        if request.num_output_tokens < params.min_tokens:
            return False
        request.status = RequestStatus.FINISHED_STOPPED
        request.stop_reason = STOP_REASON
        return True

    def _of(self, request: Request) -> _Watched | None:
        """A request's window, if it has one: asked in every step, so that it is kept either way."""
        name = request.request_id
        try:
            return self._watched[name]
        except KeyError:
            return self._watched.setdefault(name, _watched(request))

    def forget(self, request_id: str) -> None:
        """Drop what is known of a request; it may be nothing."""
        self._watched.pop(request_id, None)


def _watched(request: Request) -> _Watched | None:
    params: Any = request.sampling_params
    mark = mark_of(params)
    if not isinstance(mark, SamplesMark) or mark.early_stop is None:
        return None
    return _Watched(mark.layout(params.num_logprobs), ConfidenceWindow(mark.early_stop))
