"""Our parts of vLLM's V2 model runner, the default on CUDA.

It computes prompt log-probabilities and applies grammars in objects of their own, which are
replaced. The runner itself is replaced only where hidden states can be asked for.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch
from vllm.config import CUDAGraphMode
from vllm.v1.outputs import LogprobsTensors
from vllm.v1.worker.gpu.cudagraph_utils import ModelCudaGraphManager
from vllm.v1.worker.gpu.model_runner import GPUModelRunner as V2ModelRunner
from vllm.v1.worker.gpu.sample.prompt_logprob import PromptLogprobsWorker
from vllm.v1.worker.gpu.structured_outputs import StructuredOutputsWorker

from conf_server.engine.adoption import adopt
from conf_server.engine.states_wire import as_prompt_tensors
from conf_server.engine.worker.prompt_rows import PromptChunk, PromptStatistics
from conf_server.engine.worker.sampler import V2StatisticsSampler
from conf_server.engine.worker.states import HiddenStates


class V2PromptLogprobs(PromptLogprobsWorker):
    """The part of the V2 model runner that computes prompt log-probabilities, with our rows."""

    prompt_statistics: PromptStatistics
    prompt_states: HiddenStates | None

    @classmethod
    def adopt(cls, stock: PromptLogprobsWorker) -> V2PromptLogprobs:
        """Take over the part while it has no request yet."""
        worker = adopt(cls, stock)
        worker.prompt_statistics = PromptStatistics()
        worker.prompt_states = None
        return worker

    def add_request(self, req_id: str, req_idx: int, sampling_params: Any) -> None:
        super().add_request(req_id, req_idx, sampling_params)
        self.prompt_statistics.add_request(req_id, sampling_params)
        if self.prompt_states is not None:
            self.prompt_states.add_request(req_id, sampling_params)

    def remove_request(self, req_id: str) -> None:
        super().remove_request(req_id)
        self.prompt_statistics.remove_request(req_id)
        if self.prompt_states is not None:
            self.prompt_states.remove_request(req_id)

    def compute_prompt_logprobs(
        self,
        logits_fn: Any,
        hidden_states: torch.Tensor,
        input_batch: Any,
        all_token_ids: torch.Tensor,
        num_computed_tokens: torch.Tensor,
        prompt_lens: Any,
    ) -> dict[str, LogprobsTensors]:
        found = super().compute_prompt_logprobs(
            logits_fn, hidden_states, input_batch, all_token_ids, num_computed_tokens, prompt_lens
        )

        def chunks(wanting: PromptStatistics | HiddenStates) -> list[PromptChunk]:
            return [
                _v2_chunk(input_batch, row, all_token_ids, prompt_lens)
                for row, req_id in enumerate(input_batch.req_ids)
                if req_id in wanting
            ]

        if rows := self.prompt_statistics:
            found = found | rows.step(chunks(rows), hidden_states, logits_fn)
        if states := self.prompt_states:
            finished = states.finish(chunks(states), hidden_states)
            found = found | {req_id: as_prompt_tensors(it) for req_id, it in finished.items()}
        return found


class V2StructuredOutputs(StructuredOutputsWorker):
    """The part of the V2 model runner that applies grammars, with the statistics taken before."""

    statistics_sampler: V2StatisticsSampler

    @classmethod
    def adopt(
        cls, stock: StructuredOutputsWorker, sampler: V2StatisticsSampler
    ) -> V2StructuredOutputs:
        """Take over the part."""
        worker = adopt(cls, stock)
        worker.statistics_sampler = sampler
        return worker

    def apply_grammar_bitmask(
        self, logits: torch.Tensor, input_batch: Any, *args: Any, **kwargs: Any
    ) -> None:
        self.statistics_sampler.take_raw(logits, input_batch)
        super().apply_grammar_bitmask(logits, input_batch, *args, **kwargs)


class V2StatesRunner(V2ModelRunner):
    """The V2 model runner, whose model runs while hidden states are taken."""

    prompt_states: HiddenStates
    prompt_groups: dict[str, int]
    _num_scheduled: dict[str, int]
    _taking: ExitStack

    @classmethod
    def adopt(
        cls, stock: V2ModelRunner, states: HiddenStates, groups: dict[str, int]
    ) -> V2StatesRunner:
        """Take over a runner that has a `V2PromptLogprobs`.

        Args:
            groups: by an attention layer's name, the number of its group of caches.
        """
        runner = adopt(cls, stock)
        runner.prompt_states = states
        runner.prompt_groups = groups
        rows: Any = runner.prompt_logprobs_worker
        rows.prompt_states = states
        runner._num_scheduled = {}
        runner._taking = ExitStack()
        if runner.cudagraph_manager is not None:
            runner.cudagraph_manager = EagerWhereTaking.adopt(runner.cudagraph_manager, runner)
        return runner

    def execute_model(self, scheduler_output: Any, *args: Any, **kwargs: Any) -> Any:
        self._num_scheduled = scheduler_output.num_scheduled_tokens
        with self._taking:  # what prepare_inputs begins
            return super().execute_model(scheduler_output, *args, **kwargs)

    def prepare_inputs(self, *args: Any, **kwargs: Any) -> Any:
        input_batch = super().prepare_inputs(*args, **kwargs)
        if self.takes():
            chunks = [
                _v2_chunk(input_batch, row, None, self.req_states.prompt_len.np)
                for row, req_id in enumerate(input_batch.req_ids)
                if req_id in self.prompt_states
            ]
            rows = {req_id: row for row, req_id in enumerate(input_batch.req_ids)}

            def blocks(req_id: str, layer_name: str) -> torch.Tensor:
                group = self.prompt_groups[layer_name]
                return self.block_tables.input_block_tables[group][rows[req_id]].long()

            self._taking.enter_context(self.prompt_states.taking(chunks, blocks))
        return input_batch

    def takes(self) -> bool:
        """Whether hidden states are wanted of this step."""
        return any(req_id in self.prompt_states for req_id in self._num_scheduled)


class EagerWhereTaking(ModelCudaGraphManager):
    """Chooses no CUDA graph for steps of which hidden states are wanted: a graph runs no Python."""

    _runner: V2StatesRunner

    @classmethod
    def adopt(cls, stock: ModelCudaGraphManager, runner: V2StatesRunner) -> EagerWhereTaking:
        """Take over a runner's manager."""
        manager = adopt(cls, stock)
        manager._runner = runner
        return manager

    def dispatch(self, num_reqs: int, num_tokens: int, *args: Any, **kwargs: Any) -> Any:
        found = super().dispatch(num_reqs, num_tokens, *args, **kwargs)
        if not self._runner.takes():
            return found
        return replace(found, cg_mode=CUDAGraphMode.NONE, num_tokens=num_tokens, num_reqs=num_reqs)


def _v2_chunk(
    input_batch: Any, row: int, all_token_ids: torch.Tensor | None, prompt_lens: Any
) -> PromptChunk:
    """
    Args:
        all_token_ids: None where nobody asks the chunk for its tokens.
    """
    state = int(input_batch.idx_mapping_np[row])

    def token_ids(begin: int, end: int) -> torch.Tensor:
        assert all_token_ids is not None
        return all_token_ids[state, begin:end].long()

    return PromptChunk(
        req_id=input_batch.req_ids[row],
        start=int(input_batch.num_computed_prefill_tokens_np[row]),
        num_tokens=int(input_batch.num_scheduled_tokens[row]),
        prompt_len=int(prompt_lens[state]),
        offset=int(input_batch.query_start_loc_np[row]),
        token_ids=token_ids,
    )
