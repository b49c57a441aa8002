"""vLLM's scheduler, which knows what teacher forcing and deferred rows need of it.

Teacher forcing needs a prefix-cache hit to end where the completion begins: the engine has
no rows for what it does not compute. And rows that nobody looks at before the answer's end
travel at its end: decoding a few small arrays a step was the largest part of what
confidence cost the API process.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import numpy as np
from vllm.config import VllmConfig
from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorBase_V1
from vllm.v1.core.kv_cache_manager import KVCacheManager
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.engine import EngineCoreOutput
from vllm.v1.outputs import LogprobsLists
from vllm.v1.request import Request

from conf_server.engine.adoption import adopt
from conf_server.engine.marks import PromptMark, SamplesMark, mark_of, prompt_mark
from conf_server.engine.rows import fit


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

    def get_computed_blocks(self, request: Any, max_cache_hit_length: int | None = None) -> Any:
        return super().get_computed_blocks(*_capped(request, max_cache_hit_length))

    def get_computed_blocks_for_connector(
        self, request: Any, max_cache_hit_length: int | None = None
    ) -> Any:
        return super().get_computed_blocks_for_connector(*_capped(request, max_cache_hit_length))


def _capped(request: Any, max_cache_hit_length: int | None) -> list[Any]:
    """The arguments of a cache lookup, for a forced text those of its context alone."""
    limits = [] if max_cache_hit_length is None else [max_cache_hit_length]  # from 0.33
    if mark := prompt_mark(request.sampling_params):
        request = _ShortRequest(request, mark.first)
        limits = [min(limit, _longest_hit(mark)) for limit in limits]
    return [request, *limits]


def _longest_hit(mark: PromptMark) -> int:
    """Tokens that may be cached: the first row is computed at the position before its token."""
    return mark.first - 1


class _ShortRequest:
    """A request as if it had so many tokens only. A hit spares a request's last one."""

    def __init__(self, request: Any, num_tokens: int) -> None:
        self._request = request
        self.num_tokens: Final = num_tokens

    def __getattr__(self, name: str) -> Any:
        return getattr(self._request, name)


class CappedConnector(KVConnectorBase_V1):
    """A KV connector that loads no forced text's scored tokens.

    What it has found cannot be cut: connectors count on loading all of it or nothing.
    Nothing is what vLLM itself asks of them for `skip_reading_prefix_cache`. The hit in
    the engine's own cache stays.
    """

    def get_num_new_matched_tokens(self, request: Any, num_computed_tokens: int) -> Any:
        stock: Any = super()
        found, is_async = stock.get_num_new_matched_tokens(request, num_computed_tokens)
        mark = prompt_mark(request.sampling_params)
        if mark and found and num_computed_tokens + found > _longest_hit(mark):
            return 0, False
        return found, is_async


class _KeptRows:
    """Copies of the rows of one request, which come one or a few a step.

    Copies, because a view would hold on to every other request's rows of that step.
    """

    def __init__(self, width: int, num_statistics: int) -> None:
        self._columns: Final = width + 1
        self._num_statistics: Final = num_statistics
        self._ids = bytearray()
        self._logprobs = bytearray()
        self._ranks: list[int] = []

    def fit(self, rows: LogprobsLists) -> bool:
        return fit(rows[0], rows[1], self._columns - 1, self._num_statistics)

    def add(self, rows: LogprobsLists) -> None:
        ids, logprobs = rows[0], rows[1]
        if logprobs.shape[1] > self._columns + self._num_statistics:  # in company that wants more
            statistics = logprobs[:, logprobs.shape[1] - self._num_statistics :]
            logprobs = np.concatenate((logprobs[:, : self._columns], statistics), axis=1)
            ids = ids[:, : self._columns]
        self._ids += ids.astype(np.int32, copy=False).tobytes()
        self._logprobs += logprobs.tobytes()
        self._ranks += rows[2].tolist()

    def all(self) -> LogprobsLists:
        return LogprobsLists(
            np.frombuffer(self._ids, np.int32).reshape(-1, self._columns),
            np.frombuffer(self._logprobs, np.float32).reshape(
                -1, self._columns + self._num_statistics
            ),
            np.array(self._ranks, np.int32),
        )


class DeferredRows:
    """Keeps the rows of requests that are marked so until they finish."""

    def __init__(self) -> None:
        self._kept: dict[str, _KeptRows] = {}

    def hold(self, outputs: Iterable[EngineCoreOutput], requests: Mapping[str, Request]) -> None:
        """Take rows out of a step's outputs, and put all of an answer's into its last.

        Rows that do not fit their request travel on as they are, and the output processor
        fails it.

        Args:
            outputs: changed in place.
            requests: those that have not finished.
        """
        for output in outputs:
            kept = self._kept.get(output.request_id)
            rows = output.new_logprobs
            if kept is None and output.finish_reason is None and rows is not None:
                kept = _kept_rows(requests.get(output.request_id))
                if kept is not None:
                    self._kept[output.request_id] = kept
            if kept is None:
                continue
            if rows is not None:
                if not kept.fit(rows):
                    self.forget(output.request_id)
                    continue
                kept.add(rows)
            output.new_logprobs = None
            if output.finish_reason is not None:
                output.new_logprobs = kept.all()
                self.forget(output.request_id)

    def forget(self, request_id: str) -> None:
        self._kept.pop(request_id, None)


def _kept_rows(request: Request | None) -> _KeptRows | None:
    """Room for a request's rows, if they are deferred."""
    params = request.sampling_params if request is not None else None
    mark = mark_of(params)
    if params is None or not isinstance(mark, SamplesMark) or not mark.deferred:
        return None
    assert params.num_logprobs is not None
    return _KeptRows(params.num_logprobs, mark.num_statistics)


class ConfidenceScheduler(Scheduler):
    """For engines whose steps follow one another: CPU."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.kv_cache_manager = adopt(CappedKVCacheManager, self.kv_cache_manager)
        if self.connector is not None:
            kind: Any = CappedConnector  # abstract until it is mixed with the connector's class
            self.connector = adopt(kind, self.connector)
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
