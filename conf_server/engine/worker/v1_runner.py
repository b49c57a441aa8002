"""Our parts of vLLM's V1 model runner, which CPU uses.

Prompt log-probabilities are computed by a method of this runner, so the runner itself is replaced
by an object of a subclass.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from vllm.utils.torch_utils import async_tensor_h2d
from vllm.v1.outputs import LogprobsTensors
from vllm.v1.worker.gpu_model_runner import GPUModelRunner as V1ModelRunner

from conf_server.engine.adoption import adopt
from conf_server.engine.states_wire import as_prompt_tensors
from conf_server.engine.worker.cpu_generators import hidden
from conf_server.engine.worker.prompt_rows import PromptChunk, PromptStatistics
from conf_server.engine.worker.states import HiddenStates


class V1StatisticsRunner(V1ModelRunner):
    """The V1 model runner (`vllm.v1.worker.gpu_model_runner`), with our prompt rows."""

    prompt_statistics: PromptStatistics
    prompt_states: HiddenStates | None
    prompt_groups: dict[str, int]
    _num_scheduled: dict[str, int]

    @classmethod
    def adopt(cls, stock: V1ModelRunner) -> V1StatisticsRunner:
        """Take over a runner. Other parts of the worker keep the old object and share its state."""
        runner = adopt(cls, stock)
        runner.prompt_statistics = PromptStatistics()
        runner.prompt_states = None
        runner.prompt_groups = {}
        runner._num_scheduled = {}
        return runner

    def _update_states(self, scheduler_output: Any) -> Any:
        takers = [part for part in (self.prompt_statistics, self.prompt_states) if part is not None]
        for taker in takers:
            # Finished requests come first, because an id may finish and come again in one step.
            for req_id in scheduler_output.finished_req_ids:
                taker.remove_request(req_id)
            for request in scheduler_output.scheduled_new_reqs:
                taker.add_request(request.req_id, request.sampling_params)
        self._num_scheduled = scheduler_output.num_scheduled_tokens
        return super()._update_states(scheduler_output)

    def _determine_batch_execution_and_padding(self, *args: Any, **kwargs: Any) -> Any:
        wanting = self.prompt_states
        if wanting and any(req_id in wanting for req_id in self._num_scheduled):
            kwargs["force_eager"] = True  # a CUDA graph runs no Python
        return super()._determine_batch_execution_and_padding(*args, **kwargs)

    def _model_forward(self, *args: Any, **kwargs: Any) -> Any:
        chunks = self._states_chunks()
        if not chunks:
            return super()._model_forward(*args, **kwargs)
        assert self.prompt_states is not None
        with self.prompt_states.taking(chunks, self._blocks):
            return super()._model_forward(*args, **kwargs)

    def _blocks(self, req_id: str, layer_name: str) -> torch.Tensor:
        """The request's blocks in the cache of an attention layer: (n,) int64."""
        table = self.input_batch.block_table[self.prompt_groups[layer_name]]
        row = self.input_batch.req_id_to_index[req_id]
        ids = table.block_table.np[row, : table.num_blocks_per_row[row]]
        return async_tensor_h2d(ids, self.device, torch.int64)

    def _states_chunks(self) -> list[PromptChunk]:
        """The step's chunks of requests that want hidden states."""
        wanting = self.prompt_states
        if not wanting:
            return []
        return [
            self._prompt_chunk(req_id, num_tokens)
            for req_id, num_tokens in self._num_scheduled.items()
            if req_id in wanting
        ]

    @torch.inference_mode()
    def sample_tokens(self, grammar_output: Any) -> Any:  # type: ignore[override]
        if grammar_output is not None and self.execute_model_state is not None:
            sampler: Any = self.sampler
            sampler.take_raw(self.execute_model_state.logits)
        return super().sample_tokens(grammar_output)

    def _sample(self, *args: Any, **kwargs: Any) -> Any:
        with self._generators_to_keep():
            return super()._sample(*args, **kwargs)

    def _bookkeeping_sync(self, *args: Any, **kwargs: Any) -> Any:
        with self._generators_to_keep():
            return super()._bookkeeping_sync(*args, **kwargs)

    def _generators_to_keep(self) -> AbstractContextManager[None]:
        """On CPU, hide the generators of tokens that will be discarded; elsewhere do nothing."""
        if self.device.type != "cpu":
            return nullcontext()
        return hidden(self.input_batch.generators, self.discard_request_mask.np)

    def _get_prompt_logprobs_dict(
        self, hidden_states: torch.Tensor, num_scheduled_tokens: dict[str, int]
    ) -> dict[str, LogprobsTensors | None]:
        found = super()._get_prompt_logprobs_dict(hidden_states, num_scheduled_tokens)
        return found | self._rows(hidden_states, num_scheduled_tokens) | self._states(hidden_states)

    def _rows(
        self, hidden_states: torch.Tensor, num_scheduled_tokens: dict[str, int]
    ) -> dict[str, LogprobsTensors]:
        if not self.prompt_statistics:
            return {}
        chunks = [
            self._prompt_chunk(req_id, num_tokens)
            for req_id, num_tokens in num_scheduled_tokens.items()
            if req_id in self.prompt_statistics
        ]
        compute_logits: Any = self.model.compute_logits
        rows = self.prompt_statistics.step(chunks, hidden_states, compute_logits)
        return {
            req_id: LogprobsTensors(ids.cpu(), logprobs.cpu(), ranks.cpu())
            for req_id, (ids, logprobs, ranks, *_) in rows.items()
        }

    def _states(self, hidden_states: torch.Tensor) -> dict[str, LogprobsTensors]:
        chunks = self._states_chunks()
        if not chunks:
            return {}
        assert self.prompt_states is not None
        states = self.prompt_states.finish(chunks, hidden_states)
        return {req_id: as_prompt_tensors(values) for req_id, values in states.items()}

    def _prompt_chunk(self, req_id: str, num_tokens: int) -> PromptChunk:
        request = self.requests[req_id]
        ids = request.prompt_token_ids
        assert ids is not None  # a prompt of embeddings cannot be scored

        def token_ids(begin: int, end: int) -> torch.Tensor:
            return async_tensor_h2d(ids[begin:end], self.device, torch.int64)

        row = self.input_batch.req_id_to_index[req_id]
        return PromptChunk(
            req_id=req_id,
            start=request.num_computed_tokens,
            num_tokens=num_tokens,
            prompt_len=len(ids),
            offset=int(self.query_start_loc.np[row]),
            token_ids=token_ids,
        )
