"""Keeping rows in the engine's process until the end of their answer.

If nobody reads the rows before, they need not travel with every step. Decoding a few small
arrays in every step was the largest part of what confidence cost the API process.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import numpy as np
from vllm.v1.engine import EngineCoreOutput
from vllm.v1.outputs import LogprobsLists
from vllm.v1.request import Request

from conf_server.engine.marks import SamplesMark, mark_of
from conf_server.stats.row_layout import EngineRows, RowLayout


class _KeptRows:
    """The rows of one request, of which every step adds one or a few.

    They are copied, because a view would keep the whole step's arrays in memory, with the rows
    of all other requests.
    """

    def __init__(self, layout: RowLayout) -> None:
        self._layout: Final = layout
        self._ids = bytearray()
        self._logprobs = bytearray()
        self._ranks: list[int] = []

    def add(self, rows: LogprobsLists) -> bool:
        """Keep the request's own columns; False where the rows do not have them."""
        own = self._layout.narrowed(EngineRows(*rows[:3]), np.concatenate)
        if own is None:
            return False
        self._ids += own.ids.astype(np.int32, copy=False).tobytes()
        self._logprobs += own.logprobs.tobytes()
        self._ranks += own.ranks.tolist()
        return True

    def all(self) -> LogprobsLists:
        """All rows so far."""
        return LogprobsLists(
            np.frombuffer(self._ids, np.int32).reshape(-1, self._layout.named),
            np.frombuffer(self._logprobs, np.float32).reshape(-1, self._layout.width),
            np.array(self._ranks, np.int32),
        )


class DeferredRows:
    """The rows of all running requests that are marked `SamplesMark.deferred`."""

    def __init__(self) -> None:
        self._kept: dict[str, _KeptRows] = {}

    def __len__(self) -> int:
        """How many requests have rows here."""
        return len(self._kept)

    def hold(self, outputs: Iterable[EngineCoreOutput], requests: Mapping[str, Request]) -> None:
        """Take the rows out of a step's outputs; an answer's last output gets all of its rows.

        Rows that do not have the request's columns are left in their output, and the output
        processor ends the request with an error.

        Args:
            outputs: the step's outputs, which are changed in place.
            requests: the requests that have not finished, by id.
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
            if rows is not None and not kept.add(rows):
                self.forget(output.request_id)
                continue
            output.new_logprobs = None
            if output.finish_reason is not None:
                output.new_logprobs = kept.all()
                self.forget(output.request_id)

    def forget(self, request_id: str) -> None:
        """Drop a request's rows; it may have none."""
        self._kept.pop(request_id, None)


def _kept_rows(request: Request | None) -> _KeptRows | None:
    """An empty store for a request's rows, or None if they are not deferred."""
    params = request.sampling_params if request is not None else None
    mark = mark_of(params)
    if params is None or not isinstance(mark, SamplesMark) or not mark.deferred:
        return None
    assert params.num_logprobs is not None
    return _KeptRows(mark.layout(params.num_logprobs))
