"""vLLM's scheduler, extended by what teacher forcing, deferred rows and early stops need."""

from __future__ import annotations

from typing import Any

from vllm.config import VllmConfig
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.request import Request

from conf_server.engine.adoption import adopt
from conf_server.engine.core.cache_limit import CappedConnector, CappedKVCacheManager
from conf_server.engine.core.deferred_rows import DeferredRows
from conf_server.engine.core.early_stops import EarlyStops


def use_our_scheduler(vllm_config: VllmConfig) -> None:
    """Name our scheduler in the configuration where vLLM would take its default.

    A scheduler that the user has chosen stays. Then a cache hit may run into a completion, and
    the text is scored a second time without the cache; and no rows are deferred.

    Args:
        vllm_config: complete, so that it says which of its two schedulers vLLM would take.
    """
    config = vllm_config.scheduler_config
    if config.scheduler_cls is None:
        config.scheduler_cls = (
            ConfidenceAsyncScheduler if config.async_scheduling else ConfidenceScheduler
        )


class ConfidenceScheduler(Scheduler):
    """The scheduler of engines that schedule a step after the last one has run, as on CPU."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.kv_cache_manager = adopt(CappedKVCacheManager, self.kv_cache_manager)
        if self.connector is not None:
            kind: Any = CappedConnector  # abstract, but `adopt` mixes it with a concrete class
            self.connector = adopt(kind, self.connector)
        self._deferred_rows = DeferredRows()
        self._early_stops = EarlyStops()

    def update_from_output(
        self, scheduler_output: SchedulerOutput, model_runner_output: ModelRunnerOutput
    ) -> Any:
        self._early_stops.begin_step(model_runner_output)
        try:
            by_client = super().update_from_output(scheduler_output, model_runner_output)
        finally:
            self._early_stops.end_step()
        for outputs in by_client.values():
            self._deferred_rows.hold(outputs.outputs, self.requests)
        return by_client

    def _update_request_with_output(
        self, request: Request, new_token_ids: list[int], *args: Any, **kwargs: Any
    ) -> tuple[list[int], bool]:
        tokens, stopped = super()._update_request_with_output(
            request, new_token_ids, *args, **kwargs
        )
        return tokens, stopped or self._early_stops.stops(request, len(tokens))

    def _free_request(self, request: Request, *args: Any, **kwargs: Any) -> Any:
        self._early_stops.forget(request.request_id)
        return super()._free_request(request, *args, **kwargs)

    def finish_requests(self, *args: Any, **kwargs: Any) -> Any:
        finished = super().finish_requests(*args, **kwargs)
        for request in finished:
            self._deferred_rows.forget(request.request_id)
        return finished


class ConfidenceAsyncScheduler(ConfidenceScheduler, AsyncScheduler):
    """The scheduler of engines that schedule a step while the last one runs, as on CUDA."""
