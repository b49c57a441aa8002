"""The extension of vLLM's worker that puts our samplers and prompt rows into the model runner.

vLLM has two model runners. In V1, which CPU uses, prompt log-probabilities are computed by a
method of the runner; so the runner is replaced by an object of a subclass. In V2, the default on
CUDA, they are computed by an object of their own, which is replaced.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from vllm.model_executor.layers.vocab_parallel_embedding import pad_vocab_size
from vllm.utils.torch_utils import async_tensor_h2d
from vllm.v1.outputs import LogprobsTensors
from vllm.v1.sample.sampler import Sampler as V1Sampler
from vllm.v1.worker.gpu.sample.prompt_logprob import PromptLogprobsWorker
from vllm.v1.worker.gpu.sample.sampler import Sampler as V2Sampler
from vllm.v1.worker.gpu.structured_outputs import StructuredOutputsWorker
from vllm.v1.worker.gpu_model_runner import GPUModelRunner as V1ModelRunner

from conf_server.engine.adoption import adopt
from conf_server.engine.exact_statistics import SPECULATIVE
from conf_server.engine.states_wire import as_prompt_tensors
from conf_server.engine.worker.cpu_generators import hidden
from conf_server.engine.worker.prompt_rows import PromptChunk, PromptStatistics
from conf_server.engine.worker.sampler import V1StatisticsSampler, V2StatisticsSampler
from conf_server.engine.worker.states import HiddenStates, LayersError
from conf_server.engine.worker.token_statistics import token_statistics


class StatisticsExtension:
    """vLLM mixes this class into its worker, because `--worker-extension-cls` names it."""

    model_runner: Any

    def install_token_statistics(self) -> str | None:
        """Make the runner compute token statistics, for generated tokens and for prompts.

        Returns:
            None where it is done. Otherwise the obstacle, and nothing has been replaced.
        """
        runner = self.model_runner
        # The flags are not enough to know this, since a checkpoint can bring its own speculator.
        if runner.vllm_config.speculative_config is not None:
            return SPECULATIVE
        sampler = getattr(runner, "sampler", None)
        if sampler is None:  # a pipeline stage that does not sample
            return None
        if isinstance(sampler, (V1StatisticsSampler, V2StatisticsSampler)):
            return None
        if type(sampler) is V1Sampler and isinstance(runner, V1ModelRunner):
            runner.sampler = V1StatisticsSampler.adopt(sampler, runner)
            self.model_runner = V1StatisticsRunner.adopt(runner)
        elif type(sampler) is V2Sampler:
            _install_v2(runner, sampler)
        else:
            return f"the sampler {type(sampler).__name__} is not known"
        warm_up(runner)
        return None

    def install_hidden_states(self) -> tuple[str | None, int, int]:
        """Make the runner take hidden states of marked requests; `install_token_statistics` first.

        Returns:
            None, the number of decoder layers and the size of a state. Or the obstacle and zeros.
        """
        runner = self.model_runner
        obstacle = states_obstacle(runner.vllm_config)
        if obstacle is None and not isinstance(runner, V1StatisticsRunner):
            obstacle = "this worker's model runner is not the V1 runner with our statistics"
        if obstacle is None:
            config = runner.model_config
            num_layers = config.hf_text_config.num_hidden_layers
            try:
                runner.prompt_states = HiddenStates(runner.get_model(), num_layers)
            except LayersError as error:
                obstacle = str(error)
            else:
                return None, num_layers, config.get_hidden_size()
        return obstacle, 0, 0


def states_obstacle(config: Any) -> str | None:
    """Why no hidden states can be taken in a server with this configuration, or None."""
    parallel = config.parallel_config
    if config.speculative_config is not None:
        return SPECULATIVE
    if parallel.pipeline_parallel_size > 1:
        return "with --pipeline-parallel-size no worker has all layers"
    if parallel.use_ubatching:
        return "microbatching splits a step"
    if parallel.decode_context_parallel_size * parallel.prefill_context_parallel_size > 1:
        return "context parallelism splits a text"
    if config.model_config.is_encoder_decoder:
        return "the model is an encoder-decoder"
    return None


def _install_v2(runner: Any, sampler: V2Sampler) -> None:
    runner.sampler = V2StatisticsSampler.adopt(sampler)
    runner.prompt_logprobs_worker = V2PromptLogprobs.adopt(runner.prompt_logprobs_worker)
    runner.structured_outputs_worker = V2StructuredOutputs.adopt(
        runner.structured_outputs_worker, runner.sampler
    )


def warm_up(runner: Any) -> None:
    """Compile the kernels, so that the first request need not wait for that.

    Triton compiles a kernel again for strides that are multiples of 16. Logits come as views
    of rows that are padded to such a stride, and as copies, whose stride is the vocabulary.
    """
    config = runner.model_config
    size, top_k = config.get_vocab_size(), torch.tensor([1, 2], dtype=torch.int32)
    for dtype in {config.dtype, torch.float32}:
        padded = torch.zeros((2, pad_vocab_size(size)), dtype=dtype, device=runner.device)
        for logits in (padded[:, :size], padded[:, :size].contiguous()):
            token_statistics(logits, top_k)


class V1StatisticsRunner(V1ModelRunner):
    """The V1 model runner (`vllm.v1.worker.gpu_model_runner`), with our prompt rows."""

    prompt_statistics: PromptStatistics
    prompt_states: HiddenStates | None
    _num_scheduled: dict[str, int]

    @classmethod
    def adopt(cls, stock: V1ModelRunner) -> V1StatisticsRunner:
        """Take over a runner. Other parts of the worker keep the old object and share its state."""
        runner = adopt(cls, stock)
        runner.prompt_statistics = PromptStatistics()
        runner.prompt_states = None
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
        with self.prompt_states.taking(chunks):
            return super()._model_forward(*args, **kwargs)

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


class V2PromptLogprobs(PromptLogprobsWorker):
    """The part of the V2 model runner that computes prompt log-probabilities, with our rows."""

    prompt_statistics: PromptStatistics

    @classmethod
    def adopt(cls, stock: PromptLogprobsWorker) -> V2PromptLogprobs:
        """Take over the part while it has no request yet."""
        worker = adopt(cls, stock)
        worker.prompt_statistics = PromptStatistics()
        return worker

    def add_request(self, req_id: str, req_idx: int, sampling_params: Any) -> None:
        super().add_request(req_id, req_idx, sampling_params)
        self.prompt_statistics.add_request(req_id, sampling_params)

    def remove_request(self, req_id: str) -> None:
        super().remove_request(req_id)
        self.prompt_statistics.remove_request(req_id)

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
        if not self.prompt_statistics:
            return found
        chunks = [
            _v2_chunk(input_batch, row, all_token_ids, prompt_lens)
            for row, req_id in enumerate(input_batch.req_ids)
            if req_id in self.prompt_statistics
        ]
        return found | self.prompt_statistics.step(chunks, hidden_states, logits_fn)


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


def _v2_chunk(
    input_batch: Any, row: int, all_token_ids: torch.Tensor, prompt_lens: Any
) -> PromptChunk:
    state = int(input_batch.idx_mapping_np[row])

    def token_ids(begin: int, end: int) -> torch.Tensor:
        return all_token_ids[state, begin:end].long()

    return PromptChunk(
        req_id=input_batch.req_ids[row],
        start=int(input_batch.num_computed_prefill_tokens_np[row]),
        num_tokens=int(input_batch.num_scheduled_tokens[row]),
        prompt_len=int(prompt_lens[state]),
        offset=int(input_batch.query_start_loc_np[row]),
        token_ids=token_ids,
    )
