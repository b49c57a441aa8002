"""The field `early_stop` of vLLM's answers: where an answer was ended for its low confidence."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing
from typing import Any, Final

from conf_server.serving.deltas import DeltaTracer
from conf_server.serving.event_stream import event

FIELD: Final = "early_stop"


class AnswersEarlyStops:
    """Where the answers of one request were ended early."""

    def __init__(self, tracers: Sequence[DeltaTracer], n: int) -> None:
        """
        Args:
            tracers: one for each prompt, which have seen all tokens when an answer is complete.
            n: answers to a prompt.
        """
        self._tracers = tracers
        self._n = n

    def of(self, index: int) -> Any:
        """What is told of an answer that is complete, by its number."""
        place, number = divmod(index, self._n)
        return self._tracers[place].early_stops[number]

    def add(self, choices: Iterable[Any]) -> None:
        """Tell of answers, as vLLM's models."""
        for choice in choices:
            setattr(choice, FIELD, self.of(choice.index))

    async def add_to_chunks(self, chunks: AsyncGenerator[str, None]) -> AsyncGenerator[str, None]:
        """Pass on `chunks`; the last one of each answer tells of it."""
        async with aclosing(chunks):
            async for line in chunks:
                # Quotes inside of a JSON string are escaped: this is the name of a field.
                if '"confidence_summary":' in line:
                    chunk = json.loads(line.removeprefix("data: "))
                    for choice in chunk["choices"]:
                        if choice.get("finish_reason") is not None:
                            choice[FIELD] = self.of(choice["index"])
                    line = event(chunk)
                yield line


def early_stops_for(request: Any, tracers: Sequence[DeltaTracer]) -> AnswersEarlyStops | None:
    """What is told of a request's answers; None where it names no rule."""
    if not tracers or request.resolved_confidence.early_stop is None:
        return None
    return AnswersEarlyStops(tracers, request.n or 1)
