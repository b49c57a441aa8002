"""vLLM's scheduler, which knows what teacher forcing and deferred rows need of it.

Teacher forcing needs a prefix-cache hit to end where the completion begins: the engine has
no rows for what it does not compute. And rows that nobody looks at before the answer's end
travel at its end: decoding a few small arrays a step was the largest part of what
confidence cost the API process.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import Any, Final

import numpy as np
from vllm.config import VllmConfig
from vllm.v1.core.kv_cache_manager import KVCacheManager
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.engine import EngineCoreOutput
from vllm.v1.outputs import LogprobsLists
from vllm.v1.request import Request

from conf_server.engine.marks import SamplesMark, mark_of, prompt_mark
from conf_server.stats.columns import NUM_TOKEN_STATISTICS
from conf_server.stats.trace import TokenTrace


def use_our_scheduler(vllm_config: VllmConfig) -> None:
    """Replace vLLM's default scheduler, of the kind that it has chosen, in the configuration.

    Any other is left alone: scoring then runs a text again where a hit has gone too far,
    and rows travel as they come.
    """
    config = vllm_config.scheduler_config
    if config.scheduler_cls is None:
        config.scheduler_cls = (
            ConfidenceAsyncScheduler if config.async_scheduling else ConfidenceScheduler
        )


class CappedKVCacheManager(KVCacheManager):
    """Ends the prefix-cache hits of forced texts before their first scored token."""

    @classmethod
    def adopt(cls, stock: KVCacheManager) -> CappedKVCacheManager:
        """Take over a manager with its state; no request is in it yet."""
        manager = cls.__new__(cls)
        manager.__dict__.update(stock.__dict__)
        return manager

    def get_computed_blocks(self, request: Any, max_cache_hit_length: int | None = None) -> Any:
        limits = [] if max_cache_hit_length is None else [max_cache_hit_length]  # from 0.33
        if mark := prompt_mark(request.sampling_params):
            # The first row is computed at the position before its token.
            request = _ShortRequest(request, mark.first)
            limits = [min(limit, mark.first - 1) for limit in limits]
        return super().get_computed_blocks(request, *limits)


class _ShortRequest:
    """A request as if it had so many tokens only. A hit spares a request's last one."""

    def __init__(self, request: Any, num_tokens: int) -> None:
        self._request = request
        self.num_tokens: Final = num_tokens

    def __getattr__(self, name: str) -> Any:
        return getattr(self._request, name)


class _KeptRows:
    """The rows of one request, which come one or a few a step.

    They are views of the whole step's rows. So many steps at a time they are copied into
    the trace: at each step that would cost ten times as much, and never would hold on to
    every other request's rows.
    """

    COPY_AT: Final = 64

    def __init__(self, trace: TokenTrace) -> None:
        self._trace = trace
        self._pending: list[LogprobsLists] = []

    def add(self, rows: LogprobsLists) -> None:
        self._pending.append(rows)
        if len(self._pending) == self.COPY_AT:
            self._copy()

    def all(self) -> LogprobsLists:
        self._copy()
        return LogprobsLists(*self._trace.arrays())

    def _copy(self) -> None:
        # A step is as wide as its widest request.
        for _, steps in groupby(self._pending, lambda rows: (rows[0].shape[1], rows[1].shape[1])):
            ids, logprobs, ranks = zip(*(rows[:3] for rows in steps), strict=True)
            self._trace.append(np.concatenate(ids), np.concatenate(logprobs), np.concatenate(ranks))
        self._pending.clear()


class DeferredRows:
    """Keeps the rows of requests that are marked so until they finish."""

    def __init__(self) -> None:
        self._kept: dict[str, _KeptRows] = {}

    def hold(self, outputs: Iterable[EngineCoreOutput], requests: Mapping[str, Request]) -> None:
        """Take rows out of a step's outputs, and put all of an answer's into its last.

        Args:
            outputs: changed in place.
            requests: those that have not finished.
        """
        for output in outputs:
            kept = self._kept.get(output.request_id)
            rows = output.new_logprobs
            if kept is None and output.finish_reason is None and rows is not None:
                trace = _trace_of(requests.get(output.request_id))
                if trace is not None:
                    kept = self._kept[output.request_id] = _KeptRows(trace)
            if kept is None:
                continue
            if rows is not None:
                kept.add(rows)
            output.new_logprobs = None
            if output.finish_reason is not None:
                output.new_logprobs = kept.all()
                self.forget(output.request_id)

    def forget(self, request_id: str) -> None:
        self._kept.pop(request_id, None)


def _trace_of(request: Request | None) -> TokenTrace | None:
    """An empty trace of the request's width, if its rows are deferred."""
    params = request.sampling_params if request is not None else None
    mark = mark_of(params)
    if params is None or not isinstance(mark, SamplesMark) or not mark.deferred:
        return None
    assert params.num_logprobs is not None
    return TokenTrace(params.num_logprobs, NUM_TOKEN_STATISTICS if mark.statistics_top_k else 0)


class ConfidenceScheduler(Scheduler):
    """For engines whose steps follow one another: CPU."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.kv_cache_manager = CappedKVCacheManager.adopt(self.kv_cache_manager)
        self._deferred_rows = DeferredRows()

    def update_from_output(self, *args: Any, **kwargs: Any) -> Any:
        by_client = super().update_from_output(*args, **kwargs)
        for outputs in by_client.values():
            self._deferred_rows.hold(outputs.outputs, self.requests)
        return by_client

    def finish_requests(self, *args: Any, **kwargs: Any) -> Any:
        finished = super().finish_requests(*args, **kwargs)
        for request in finished:
            self._deferred_rows.forget(request.request_id)
        return finished


class ConfidenceAsyncScheduler(ConfidenceScheduler, AsyncScheduler):
    """For engines that schedule a step while the last one runs: CUDA."""
