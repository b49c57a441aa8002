"""Samplers that add exact token statistics to the log-probabilities channel, in the worker.

A request marked with `statistics_top_k` gets `NUM_TOKEN_STATISTICS` columns at the right end of
its log-probability rows, past the last that has a token id. They travel through scheduler and
ZMQ untouched; requests that asked for plain log-probabilities never see them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from vllm.sampling_params import SamplingParams
from vllm.utils.torch_utils import async_tensor_h2d
from vllm.v1.outputs import LogprobsTensors, SamplerOutput
from vllm.v1.sample.sampler import Sampler as V1Sampler
from vllm.v1.worker.gpu.sample.sampler import Sampler as V2Sampler

from conf_server.engine.cpu_generators import spared
from conf_server.engine.marks import sample_statistics_top_k
from conf_server.engine.prompt_statistics import relative_logprobs
from conf_server.engine.token_statistics import token_statistics


class V1StatisticsSampler(V1Sampler):
    """For `vllm.v1.worker.gpu_model_runner`, which CPU uses."""

    _runner: Any

    @classmethod
    def adopt(cls, stock: V1Sampler, runner: Any) -> V1StatisticsSampler:
        """Take over a sampler with its state."""
        sampler = cls.__new__(cls)
        sampler.__dict__.update(stock.__dict__)
        # Past nn.Module's __setattr__: the runner is no submodule of its sampler.
        sampler.__dict__["_runner"] = runner
        return sampler

    def forward(
        self, logits: torch.Tensor, sampling_metadata: Any, *args: Any, **kwargs: Any
    ) -> SamplerOutput:
        if sampling_metadata.generators and logits.device.type == "cpu":
            discarded = self._runner.discard_request_mask.np
            generators = spared(sampling_metadata.generators, discarded)
            sampling_metadata = replace(sampling_metadata, generators=generators)
        # Whoever wants statistics asks for log-probabilities: without those, look no further.
        if sampling_metadata.max_num_logprobs is None:
            return super().forward(logits, sampling_metadata, *args, **kwargs)
        req_ids = self._runner.input_batch.req_ids
        top_k = _top_k_by_row(req_ids, self._runner.requests)
        # Dummy runs have rows that are nobody's.
        if top_k is None or logits.shape[0] != len(req_ids):
            return super().forward(logits, sampling_metadata, *args, **kwargs)
        # First of all: logits processors and temperature work in place.
        rows, statistics = _statistics(logits, top_k)
        if not _only_statistics(self._runner.input_batch, req_ids, top_k):
            output = super().forward(logits, sampling_metadata, *args, **kwargs)
            output.logprobs_tensors = _widen(output.logprobs_tensors, rows, statistics)
            return output
        # Nobody wants candidates or ranks: spare the whole vocabulary's log-softmax.
        raw = logits.clone()
        output = super().forward(
            logits, replace(sampling_metadata, max_num_logprobs=None), *args, **kwargs
        )
        output.logprobs_tensors = _sampled_only(
            raw, output.sampled_token_ids[:, 0], rows, statistics
        )
        return output


class V2StatisticsSampler(V2Sampler):
    """For `vllm.v1.worker.gpu.model_runner`, which CUDA uses."""

    _statistics_top_k: np.ndarray

    @classmethod
    def adopt(cls, stock: V2Sampler) -> V2StatisticsSampler:
        """Take over a sampler with its state; no request is in it yet."""
        sampler = cls.__new__(cls)
        sampler.__dict__.update(stock.__dict__)
        sampler._statistics_top_k = np.zeros(len(stock.needs_logits_processing), np.int32)
        return sampler

    def add_request(self, req_idx: int, sampling_params: SamplingParams) -> None:
        super().add_request(req_idx, sampling_params)
        self._statistics_top_k[req_idx] = sample_statistics_top_k(sampling_params)

    def __call__(self, logits: torch.Tensor, input_batch: Any) -> Any:
        output = super().__call__(logits, input_batch)
        if output.logprobs_tensors is None:
            return output
        top_k = self._statistics_top_k[input_batch.idx_mapping_np]
        # One row a request: speculative decoding, which has more, never gets here.
        if top_k.any():
            # V2 copies logits before it changes them.
            rows, statistics = _statistics(logits, top_k)
            output.logprobs_tensors = _widen(output.logprobs_tensors, rows, statistics)
        return output


def _top_k_by_row(req_ids: list[str], requests: Mapping[str, Any]) -> np.ndarray | None:
    """(n,) int32: k of each row that wants statistics, 0 elsewhere; None where none does."""
    top_k = np.fromiter(
        (sample_statistics_top_k(requests[req_id].sampling_params) for req_id in req_ids),
        np.int32,
        len(req_ids),
    )
    return top_k if top_k.any() else None


def _only_statistics(input_batch: Any, req_ids: list[str], top_k: np.ndarray) -> bool:
    """Whether every request that wants log-probabilities wants nothing but statistics."""
    if input_batch.max_num_logprobs != 0 or input_batch.logprob_token_ids:
        return False
    wanting = {req_id for req_id, k in zip(req_ids, top_k, strict=True) if k}
    return set(input_batch.num_logprobs) <= wanting


def _statistics(
    logits: torch.Tensor, top_k: np.ndarray
) -> tuple[torch.Tensor | None, torch.Tensor]:
    """Statistics of the rows that want them, and which those are (None: all)."""
    device = logits.device
    if top_k.all():
        return None, token_statistics(logits, async_tensor_h2d(top_k, device))
    rows = async_tensor_h2d(np.flatnonzero(top_k), device)
    return rows, token_statistics(logits[rows], async_tensor_h2d(top_k[top_k > 0], device))


def _widen(
    tensors: LogprobsTensors | None, rows: torch.Tensor | None, statistics: torch.Tensor
) -> LogprobsTensors:
    """Append the statistics as columns; rows that did not ask get NaN."""
    assert tensors is not None  # whoever wants statistics asks for log-probabilities
    columns = _all_rows(len(tensors.logprobs), rows, statistics)
    return tensors._replace(logprobs=torch.cat((tensors.logprobs, columns), dim=1))


def _all_rows(n: int, rows: torch.Tensor | None, values: torch.Tensor) -> torch.Tensor:
    """`values`, (m, w), at `rows` of (n, w); NaN elsewhere."""
    if rows is None:
        return values
    columns = torch.full((n, values.shape[1]), torch.nan, device=values.device)
    columns[rows] = values
    return columns


def _sampled_only(
    raw: torch.Tensor, sampled: torch.Tensor, rows: torch.Tensor | None, statistics: torch.Tensor
) -> LogprobsTensors:
    """Rows of the sampled token and the statistics; the rank, which nobody reads, is 0."""
    if rows is not None:
        raw, sampled_here = raw[rows], sampled[rows]
    else:
        sampled_here = sampled
    own = relative_logprobs(raw, raw.gather(1, sampled_here.long().unsqueeze(1)), statistics)
    n = len(sampled)
    return LogprobsTensors(
        logprob_token_ids=sampled.int().unsqueeze(1),
        logprobs=_all_rows(n, rows, torch.cat((own, statistics), dim=1)),
        selected_token_ranks=torch.zeros(n, dtype=torch.int64, device=raw.device),
    )
