"""The extension of vLLM's worker that puts our parts into the model runner.

vLLM has two model runners, and what is ours in them is in `v1_runner.py` and `v2_runner.py`.
"""

from __future__ import annotations

from typing import Any

import torch
from vllm.distributed.parallel_state import get_tp_group
from vllm.model_executor.layers.vocab_parallel_embedding import pad_vocab_size
from vllm.v1.sample.sampler import Sampler as V1Sampler
from vllm.v1.worker.gpu.model_runner import GPUModelRunner as V2ModelRunner
from vllm.v1.worker.gpu.sample.sampler import Sampler as V2Sampler
from vllm.v1.worker.gpu_model_runner import GPUModelRunner as V1ModelRunner

from conf_server.engine.exact_statistics import SPECULATIVE
from conf_server.engine.worker.attention import AttentionError, LayerAttention
from conf_server.engine.worker.sampler import V1StatisticsSampler, V2StatisticsSampler
from conf_server.engine.worker.states import HiddenStates, LayersError
from conf_server.engine.worker.token_statistics import token_statistics
from conf_server.engine.worker.v1_runner import V1StatisticsRunner
from conf_server.engine.worker.v2_runner import (
    V2PromptLogprobs,
    V2StatesRunner,
    V2StructuredOutputs,
)

WorkerSupport = tuple[str | None, int, int, int, list[str | None]]
"""The fields of `StatesSupport`; zeros and nothing behind an obstacle."""


class StatisticsExtension:
    """vLLM mixes this class into its worker, because `--worker-extension-cls` names it."""

    model_runner: Any
    states_support: WorkerSupport | None = None

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

    def install_hidden_states(self, max_attention_bytes: int) -> WorkerSupport:
        """Make the runner take what marked requests want; `install_token_statistics` first.

        Every API process asks for it. Only the first time something is done.

        Args:
            max_attention_bytes: of logits and keys that exist at a time.
        """
        if self.states_support is None:
            self.states_support = self._install_hidden_states(max_attention_bytes)
        return self.states_support

    def _install_hidden_states(self, max_attention_bytes: int) -> WorkerSupport:
        runner = self.model_runner
        num_layers = runner.model_config.hf_text_config.num_hidden_layers
        obstacle = states_obstacle(runner.vllm_config)
        if obstacle is not None:
            return obstacle, 0, 0, 0, []
        try:
            states = HiddenStates(runner.get_model(), num_layers)
        except LayersError as error:
            return str(error), 0, 0, 0, []
        groups = cache_groups(runner)
        obstacles = add_attention(states, set(groups), max_attention_bytes)
        if isinstance(runner, V1StatisticsRunner):
            runner.prompt_states = states
            runner.prompt_groups = groups
        elif isinstance(runner, V2ModelRunner):
            self.model_runner = V2StatesRunner.adopt(runner, states, groups)
        else:
            return f"the model runner {type(runner).__name__} is not known", 0, 0, 0, []
        heads = max((each.num_heads for each in states.attention.values()), default=0)
        heads *= get_tp_group().world_size
        return None, num_layers, runner.model_config.get_hidden_size(), heads, obstacles


def cache_groups(runner: Any) -> dict[str, int]:
    """By an attention layer's name, the number of the group of caches that it belongs to."""
    return {
        name: number
        for number, group in enumerate(runner.kv_cache_config.kv_cache_groups)
        for name in group.layer_names
    }


def add_attention(states: HiddenStates, cached: set[str], max_bytes: int) -> list[str | None]:
    """Give `states` the attention of all layers whose weights can be recomputed.

    Args:
        cached: names of the attention layers that have a cache.

    Returns:
        For each decoder layer why its weights cannot be had, None where they can.
    """
    group = get_tp_group()
    if group.world_size > 1:
        device = group.device

        def gather(own: torch.Tensor, dim: int) -> torch.Tensor:
            return group.all_gather(own.to(device).contiguous(), dim).cpu()

        states.gather = gather
    obstacles: list[str | None] = []
    for number, layer in enumerate(states.layers):
        try:
            attention = LayerAttention(layer, max_bytes)
        except AttentionError as error:
            obstacles.append(str(error))
            continue
        if attention.name in cached:
            states.attention[number] = attention
        obstacles.append(None if attention.name in cached else "the layer has no cache")
    return obstacles


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
