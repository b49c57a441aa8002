"""The rows of scored texts, computed in the worker.

vLLM's `prompt_logprobs` computes logits for every position of a prompt, request by request. Here
each request gets rows from its first scored token on, all requests of a step are computed
together, and the rows carry the same exact statistics as those of generated tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import torch
from torch import Tensor
from vllm.sampling_params import SamplingParams
from vllm.utils.torch_utils import async_tensor_h2d
from vllm.v1.outputs import LogprobsTensors

from conf_server.engine.marks import PromptMark, prompt_mark
from conf_server.engine.worker.token_rows import TokenRows, token_rows
from conf_server.stats.row_layout import OWN, ColumnGroup, RowLayout, joined

_ROWS_AT_ONCE: Final = 256
"""How many rows of logits are in memory at a time: 256 rows of 150,000 float32 are 154 MB."""


@dataclass(frozen=True)
class PromptChunk:
    """The part of one request's prompt that one step has computed.

    Attributes:
        req_id: the request's id.
        start: position in the prompt of the chunk's first token.
        num_tokens: how many tokens the chunk has; some may lie past the prompt's end.
        prompt_len: how many tokens the whole prompt has.
        offset: the row of `start` in the step's hidden states.
        token_ids: (begin, end) -> (end - begin,) int64, the prompt's tokens on the device.
    """

    req_id: str
    start: int
    num_tokens: int
    prompt_len: int
    offset: int
    token_ids: Callable[[int, int], Tensor]

    @property
    def is_last(self) -> bool:
        """Whether the prompt is complete with this chunk."""
        return self.start + self.num_tokens >= self.prompt_len


@dataclass
class _Progress:
    """A request's rows so far, and the position of the prompt whose row comes next."""

    mark: PromptMark
    next_row: int
    parts: list[LogprobsTensors] = field(default_factory=list)


class PromptStatistics:
    """The prompt rows of all requests of one worker whose mark asks for statistics.

    The row at position p is computed from the hidden state at p, and is that of token p+1.
    """

    def __init__(self) -> None:
        self._requests: dict[str, _Progress] = {}

    def __contains__(self, req_id: str) -> bool:
        return req_id in self._requests

    def __bool__(self) -> bool:
        return bool(self._requests)

    def add_request(self, req_id: str, params: SamplingParams | None) -> None:
        """Remember a new request, if its mark asks for rows from here."""
        if (mark := prompt_mark(params)) and mark.statistics_top_k:
            self._requests[req_id] = _Progress(mark, mark.first - 1)

    def remove_request(self, req_id: str) -> None:
        """Forget a request, whether or not it was remembered."""
        self._requests.pop(req_id, None)

    def step(
        self,
        chunks: Sequence[PromptChunk],
        hidden_states: Tensor,
        compute_logits: Callable[[Tensor], Tensor],
    ) -> dict[str, LogprobsTensors]:
        """Compute the rows of one step.

        Args:
            chunks: the step's chunks of requests that this object remembers.
            hidden_states: (tokens of the step, hidden size).
            compute_logits: (n, hidden size) -> (n, V).

        Returns:
            For each request whose prompt is complete with this step, all of its rows, on the
            device, in the layout of its mark. A request of which some row is missing, because
            the position came from a cache, gets none at all.
        """
        spans = [(chunk, *self._span(chunk)) for chunk in chunks]
        wanted = [span for span in spans if span[1] < span[2]]
        if wanted:
            rows = _rows(
                [(self._requests[chunk.req_id].mark, chunk, a, b) for chunk, a, b in wanted],
                hidden_states,
                compute_logits,
            )
            for (chunk, begin, end), part in zip(wanted, rows, strict=True):
                progress = self._requests[chunk.req_id]
                progress.parts.append(part)
                progress.next_row += end - begin
        finished = {}
        for chunk, _, _ in spans:
            if chunk.is_last:
                progress = self._requests.pop(chunk.req_id)
                if progress.parts and progress.next_row == chunk.prompt_len - 1:
                    finished[chunk.req_id] = LogprobsTensors.cat(progress.parts)
        return finished

    def _span(self, chunk: PromptChunk) -> tuple[int, int]:
        """The positions of the chunk that need a row: the first, and the one after the last."""
        progress = self._requests[chunk.req_id]
        begin = max(chunk.start, progress.mark.first - 1)
        end = min(chunk.start + chunk.num_tokens, chunk.prompt_len - 1)
        if begin == progress.mark.first - 1:
            # The request has begun, maybe a second time: after a preemption it starts again.
            progress.parts.clear()
            progress.next_row = begin
        return (begin, end) if begin == progress.next_row else (end, end)


def _rows(
    spans: Sequence[tuple[PromptMark, PromptChunk, int, int]],
    hidden_states: Tensor,
    compute_logits: Callable[[Tensor], Tensor],
) -> list[LogprobsTensors]:
    """The rows of every span, all of whose positions are computed together.

    Args:
        spans: mark, chunk, first position and the position after the last.
    """
    device = hidden_states.device
    marks = [mark for mark, *_ in spans]
    counts = [b - a for _, _, a, b in spans]
    positions = [np.arange(a, b) + chunk.offset - chunk.start for _, chunk, a, b in spans]
    index = async_tensor_h2d(np.concatenate(positions), device)
    targets = torch.cat([chunk.token_ids(a + 1, b + 1) for _, chunk, a, b in spans])
    top_k = async_tensor_h2d(
        np.repeat(np.array([mark.statistics_top_k for mark in marks], np.int32), counts), device
    )
    columns = _Columns.of(marks, device)
    blocks = [
        columns.block(compute_logits(hidden_states[index[block]]), targets[block], top_k[block])
        for start in range(0, len(index), _ROWS_AT_ONCE)
        for block in [slice(start, start + _ROWS_AT_ONCE)]
    ]
    parts = zip(
        *(torch.cat(tensors).split(counts) for tensors in zip(*blocks, strict=True)), strict=True
    )
    return [columns.of_request(mark, *part) for mark, part in zip(marks, parts, strict=True)]


@dataclass(frozen=True)
class _Columns:
    """What the rows of a step hold so that every request finds its own columns in them.

    Attributes:
        candidates: how many of the likeliest tokens, the most that any request asks for.
        token_ids: the tokens that requests name, each once, in ascending order.
        named: the same on the device, int64; None if there are none.
        ranks: whether any request asks for ranks.
    """

    candidates: int
    token_ids: list[int]
    named: Tensor | None
    ranks: bool

    @classmethod
    def of(cls, marks: Sequence[PromptMark], device: torch.device) -> _Columns:
        token_ids = sorted({i for mark in marks for i in mark.token_ids})
        named = async_tensor_h2d(np.array(token_ids, np.int64), device) if token_ids else None
        return cls(
            candidates=max(0 if mark.token_ids else mark.candidates for mark in marks),
            token_ids=token_ids,
            named=named,
            ranks=any(mark.ranks for mark in marks),
        )

    def block(self, logits: Tensor, targets: Tensor, top_k: Tensor) -> TokenRows:
        """Rows whose columns are those of all requests.

        Args:
            logits: (n, V).
            targets: (n,) int64, the rows' own tokens.
            top_k: (n,) int32, how many candidates each row's confidence averages.
        """
        return token_rows(logits, targets, top_k, self.candidates, self.named, self.ranks)

    def of_request(
        self, mark: PromptMark, ids: Tensor, logprobs: Tensor, ranks: Tensor, statistics: Tensor
    ) -> LogprobsTensors:
        """The rows of one request in the layout of its mark."""
        # An index may be a list, but then torch waits for the device while it copies the list.
        wanted: slice | Tensor = slice(0, mark.layout().named)
        if mark.token_ids:
            first = RowLayout(self.candidates).named
            places = [OWN, *(first + self.token_ids.index(i) for i in mark.token_ids)]
            wanted = async_tensor_h2d(np.array(places, np.int64), ids.device)
        groups = {ColumnGroup.STATISTICS: statistics}
        return LogprobsTensors(
            ids[:, wanted], joined(logprobs[:, wanted], groups, torch.cat), ranks
        )
