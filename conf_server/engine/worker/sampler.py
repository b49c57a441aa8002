"""Samplers that append exact token statistics to the log-probabilities of generated tokens.

If a request of the step is marked with `statistics_top_k`, the step's rows get the column group
`ColumnGroup.STATISTICS`. It travels through the scheduler to the API process with the
log-probabilities; vLLM does not look at it, and neither do requests without that mark.

The statistics are those of the model's own distribution. Where a grammar masks the logits, the
runner calls `take_raw` before. The log-probabilities beside them are vLLM's own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch.nn.functional import pad
from vllm.sampling_params import SamplingParams
from vllm.utils.torch_utils import async_tensor_h2d
from vllm.v1.outputs import LogprobsTensors, SamplerOutput
from vllm.v1.sample.logits_processor import LogitBiasLogitsProcessor, MinTokensLogitsProcessor
from vllm.v1.sample.sampler import Sampler as V1Sampler
from vllm.v1.worker.gpu.sample.sampler import Sampler as V2Sampler

from conf_server.engine.adoption import adopt
from conf_server.engine.marks import sample_statistics_top_k
from conf_server.engine.worker.token_rows import relative_logprobs
from conf_server.engine.worker.token_statistics import (
    token_statistics,
    token_statistics_and_likeliest,
)
from conf_server.stats.columns import TokenStatistic
from conf_server.stats.row_layout import ColumnGroup, joined


@dataclass(frozen=True)
class StepStatistics:
    """The statistics of those m of a step's n rows whose requests ask for them.

    Attributes:
        top_k: (n,) int32, how many candidates each row's confidence averages; 0 in rows whose
            request asks for no statistics.
        rows: (m,) indices of the rows that have statistics; None where all have.
        values: (m, s) float32, the columns of `TokenStatistic`.
    """

    top_k: np.ndarray
    rows: torch.Tensor | None
    values: torch.Tensor

    @classmethod
    def of(cls, logits: torch.Tensor, top_k: np.ndarray) -> StepStatistics | None:
        """Compute the statistics of a step, or None where no row needs any.

        Args:
            logits: (n, V), before anything has changed them.
            top_k: as the attribute.
        """
        if not top_k.any():
            return None
        device = logits.device
        if top_k.all():
            values = token_statistics(logits, async_tensor_h2d(top_k, device))
            return cls(top_k, None, values)
        rows = async_tensor_h2d(np.flatnonzero(top_k), device)
        wanted = async_tensor_h2d(top_k[top_k > 0], device)
        return cls(top_k, rows, token_statistics(logits[rows], wanted))

    def of_rows(self, values: torch.Tensor) -> torch.Tensor:
        """Values (m, w) of the rows that have statistics as (n, w), with NaN in the others."""
        if self.rows is None:
            return values
        columns = torch.full((len(self.top_k), values.shape[1]), torch.nan, device=values.device)
        columns[self.rows] = values
        return columns

    def widen(self, tensors: LogprobsTensors | None) -> LogprobsTensors:
        """The step's rows with the statistics behind their columns."""
        assert tensors is not None  # a request with statistics asks for log-probabilities too
        groups = {ColumnGroup.STATISTICS: self.of_rows(self.values)}
        return tensors._replace(logprobs=joined(tensors.logprobs, groups, torch.cat))


class V1StatisticsSampler(V1Sampler):
    """The sampler of the V1 model runner (`vllm.v1.worker.gpu_model_runner`)."""

    _runner: Any
    _taken: StepStatistics | None
    _likeliest: torch.Tensor | None

    @classmethod
    def adopt(cls, stock: V1Sampler, runner: Any) -> V1StatisticsSampler:
        """Take over the sampler of a runner."""
        sampler = adopt(cls, stock)
        # nn.Module's __setattr__ would make the runner a submodule of its sampler.
        sampler.__dict__["_runner"] = runner
        sampler._taken = sampler._likeliest = None
        return sampler

    def take_raw(self, logits: torch.Tensor) -> None:
        """Compute the statistics of the coming call now, before a grammar masks the logits."""
        self._taken = StepStatistics.of(logits, self._top_k(logits))

    def forward(
        self, logits: torch.Tensor, sampling_metadata: Any, *args: Any, **kwargs: Any
    ) -> SamplerOutput:
        # Requests with statistics ask for log-probabilities too. Without any, nothing is ours.
        if sampling_metadata.max_num_logprobs is None:
            return super().forward(logits, sampling_metadata, *args, **kwargs)
        taken, self._taken = self._taken, None
        top_k = self._top_k(logits)
        given = (logits, sampling_metadata, *args)
        if taken is None and self._only_statistics(top_k):
            return self._forward_only_statistics(top_k, *given, **kwargs)
        # This comes first, because logits processors and temperature change the logits in place.
        statistics = taken or StepStatistics.of(logits, top_k)
        if sampling_metadata.logprob_token_ids:
            output = self._forward_with_named_tokens(*given, **kwargs)
        else:
            output = super().forward(*given, **kwargs)
        if statistics is not None:
            output.logprobs_tensors = statistics.widen(output.logprobs_tensors)
        return output

    def _top_k(self, logits: torch.Tensor) -> np.ndarray:
        """`StepStatistics.top_k` of a step."""
        req_ids, requests = self._runner.input_batch.req_ids, self._runner.requests
        if logits.shape[0] != len(req_ids):  # a dummy run has rows without a request
            return np.zeros(len(logits), np.int32)
        top_k = (sample_statistics_top_k(requests[req_id].sampling_params) for req_id in req_ids)
        return np.fromiter(top_k, np.int32, len(req_ids))

    def _only_statistics(self, top_k: np.ndarray) -> bool:
        """Whether statistics are all that any request of the step asks for beside its tokens."""
        batch = self._runner.input_batch
        if not top_k.any() or batch.max_num_logprobs != 0 or batch.logprob_token_ids:
            return False
        wanting = {req_id for req_id, k in zip(batch.req_ids, top_k, strict=True) if k}
        return set(batch.num_logprobs) <= wanting

    def _forward_only_statistics(
        self, top_k: np.ndarray, logits: torch.Tensor, metadata: Any, *args: Any, **kwargs: Any
    ) -> SamplerOutput:
        """Sample without vLLM's log-probabilities, which nobody in this step needs.

        That saves a log-softmax, a top k and the ranks over the whole vocabulary.
        """
        without = replace(metadata, max_num_logprobs=None)
        raw: torch.Tensor | None = None
        if not _takes_the_likeliest(metadata):
            raw, statistics = logits.clone(), StepStatistics.of(logits, top_k)
        elif top_k.all():
            values, self._likeliest = token_statistics_and_likeliest(logits, top_k.tolist())
            statistics = StepStatistics(top_k, None, values)
        else:
            statistics = StepStatistics.of(logits, top_k)
        output = super().forward(logits, without, *args, **kwargs)
        assert statistics is not None
        output.logprobs_tensors = _sampled_only(raw, output.sampled_token_ids[:, 0], statistics)
        return output

    def sample(self, logits: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """As vLLM, or what the statistics of the same logits have found on their way."""
        likeliest, self._likeliest = self._likeliest, None
        if likeliest is not None:
            return likeliest, None  # nobody in such a step wants vLLM's log-probabilities
        return super().sample(logits, *args, **kwargs)

    def _forward_with_named_tokens(
        self, logits: Any, metadata: Any, *args: Any, **kwargs: Any
    ) -> SamplerOutput:
        """Sample in a step in which some requests name tokens (`logprob_token_ids`).

        vLLM's V1 sampler would give all rows of the step the columns of those requests. Here
        the others keep their likeliest tokens.
        """
        logprobs = self.compute_logprobs(logits)
        names = metadata.logprob_token_ids
        metadata = replace(metadata, logprob_token_ids=None)
        output = super().forward(logits, metadata, *args, **kwargs)
        likeliest = output.logprobs_tensors
        named = self.gather_specific_token_logprobs(
            logprobs, names, output.sampled_token_ids[:, 0].long()
        )
        assert likeliest is not None
        assert named is not None
        output.logprobs_tensors = _named_where(sorted(names), named, likeliest)
        return output


class V2StatisticsSampler(V2Sampler):
    """The sampler of the V2 model runner (`vllm.v1.worker.gpu.model_runner`)."""

    _statistics_top_k: np.ndarray
    _taken: StepStatistics | None

    @classmethod
    def adopt(cls, stock: V2Sampler) -> V2StatisticsSampler:
        """Take over a sampler while it has no request yet."""
        sampler = adopt(cls, stock)
        sampler._statistics_top_k = np.zeros(len(stock.needs_logits_processing), np.int32)
        sampler._taken = None
        return sampler

    def add_request(self, req_idx: int, sampling_params: SamplingParams) -> None:
        super().add_request(req_idx, sampling_params)
        self._statistics_top_k[req_idx] = sample_statistics_top_k(sampling_params)

    def take_raw(self, logits: torch.Tensor, input_batch: Any) -> None:
        """Compute the statistics of the coming call now, before a grammar masks the logits."""
        self._taken = self._statistics(logits, input_batch)

    def __call__(self, logits: torch.Tensor, input_batch: Any) -> Any:
        taken, self._taken = self._taken, None
        output = super().__call__(logits, input_batch)
        if output.logprobs_tensors is None:
            return output
        # V2 copies the logits before it changes them, so that these are still the model's own.
        if statistics := taken or self._statistics(logits, input_batch):
            output.logprobs_tensors = statistics.widen(output.logprobs_tensors)
        return output

    def _statistics(self, logits: torch.Tensor, input_batch: Any) -> StepStatistics | None:
        # Every request has one row. Only speculative decoding has more, and is refused before.
        return StepStatistics.of(logits, self._statistics_top_k[input_batch.idx_mapping_np])


def _takes_the_likeliest(metadata: Any) -> bool:
    """Whether V1's sampler takes the likeliest token of each row, by the logits that it is given.

    If anything may change the logits before, the answer is no.
    """
    holder = metadata.thinking_budget_state_holder
    return (
        metadata.all_greedy
        and metadata.no_penalties
        and metadata.allowed_token_ids_mask is None
        and not metadata.bad_words_token_ids
        and not (holder is not None and holder.has_tracked_requests())
        and not any(map(_may_act, metadata.logitsprocs.non_argmax_invariant))
    )


def _may_act(processor: Any) -> bool:
    """Whether a logits processor may change the logits of this step."""
    if type(processor) is LogitBiasLogitsProcessor:
        return bool(processor.biases)
    if type(processor) is MinTokensLogitsProcessor:
        return bool(processor.min_toks)
    return True  # of another package: only it knows


def _sampled_only(
    raw: torch.Tensor | None, sampled: torch.Tensor, statistics: StepStatistics
) -> LogprobsTensors:
    """Rows that hold the sampled token and the statistics. The ranks, which nobody reads, are 0.

    Args:
        raw: (n, V) logits, before anything has changed them; None where the sampled tokens are
            the likeliest.
    """
    values = statistics.values
    if raw is None:
        own = values[:, TokenStatistic.LOGPROB_1ST].unsqueeze(1)
    else:
        here = sampled
        if statistics.rows is not None:
            raw, here = raw[statistics.rows], sampled[statistics.rows]
        own = relative_logprobs(raw, raw.gather(1, here.long().unsqueeze(1)), values)
    return LogprobsTensors(
        logprob_token_ids=sampled.int().unsqueeze(1),
        logprobs=statistics.of_rows(joined(own, {ColumnGroup.STATISTICS: values}, torch.cat)),
        selected_token_ranks=torch.zeros(len(sampled), dtype=torch.int64, device=sampled.device),
    )


def _named_where(
    rows: list[int], named: LogprobsTensors, likeliest: LogprobsTensors
) -> LogprobsTensors:
    """The rows of `named` where `rows` says so, else those of `likeliest`.

    The narrower of the two is filled up with tokens of probability 0, as vLLM does it.
    """
    width = max(named.logprobs.shape[1], likeliest.logprobs.shape[1])
    index = async_tensor_h2d(np.array(rows, np.int64), named.logprobs.device)

    def merged(name: str, filling: float) -> torch.Tensor:
        first, second = (
            pad(values, (0, width - values.shape[1]), value=filling)
            for values in (getattr(likeliest, name), getattr(named, name))
        )
        first[index] = second[index]
        return first

    return likeliest._replace(
        logprob_token_ids=merged("logprob_token_ids", 0),
        logprobs=merged("logprobs", -torch.inf),
    )
