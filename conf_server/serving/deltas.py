"""From the engine's outputs to the tokens that one call of `_create_*_logprobs` has to show."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any

from vllm.outputs import CompletionOutput, RequestOutput

from conf_server.engine.client.output_processor import SampleTrace
from conf_server.engine.client.stock_logprobs import append_stock_rows
from conf_server.serving.confidence import Confidence
from conf_server.serving.requests import ConfidenceRequest
from conf_server.serving.splices import Splices
from conf_server.serving.trace_delta import TraceDelta
from conf_server.stats.trace import TokenTrace


class DeltaTracer:
    """Turns the log-probabilities of one request's outputs into `TraceDelta`s.

    Attributes:
        traces: by the output's index, its tokens so far; none in mode `empty`.
        early_stops: by the output's index, what is told of where it was ended early; None where it
            has ended otherwise. Empty where the request names no rule.
    """

    def __init__(self, confidence: Confidence, width: int, splices: Splices | None) -> None:
        self._confidence = confidence
        self._splices = splices
        self._width = width
        self._seen: dict[int, int] = {}
        self.traces: dict[int, TokenTrace] = {}
        self.early_stops: dict[int, dict[str, Any] | None] = {}

    def annotate(self, result: RequestOutput) -> None:
        """Put a `TraceDelta` into the place of every output's log-probabilities."""
        for output in result.outputs:
            start = self._seen.get(output.index, 0)
            stop = self._seen[output.index] = start + len(output.token_ids)
            rows: Any = output.logprobs
            thinking = rows.thinking_tokens if isinstance(rows, SampleTrace) else None
            trace = None if self._confidence.mode == "empty" else self._trace(output)
            delta = TraceDelta(
                self._confidence,
                trace,
                start,
                stop,
                output.finish_reason is not None,
                self._splices,
            )
            logprobs: Any = delta
            output.logprobs = logprobs
            if delta.finished and self._confidence.early_stop is not None:
                self.early_stops[output.index] = delta.early_stop(output.stop_reason, thinking)

    def _trace(self, output: CompletionOutput) -> TokenTrace:
        rows: Any = output.logprobs
        if isinstance(rows, SampleTrace):
            self.traces[output.index] = rows.trace
            return rows.trace
        trace = self.traces.setdefault(output.index, TokenTrace(self._width))
        append_stock_rows(trace, output.token_ids, rows or ())
        return trace


def request_tracers(request: Any, num_prompts: int) -> list[DeltaTracer]:
    """One tracer for each prompt, or none where the request gets vLLM's own answer."""
    if not isinstance(request, ConfidenceRequest) or request.resolved_confidence is None:
        return []
    confidence = request.resolved_confidence
    width = confidence.width(request.shown_candidates)
    return [DeltaTracer(confidence, width, request.splices) for _ in range(num_prompts)]


async def traced_outputs(
    results: AsyncIterator[RequestOutput], tracer: DeltaTracer
) -> AsyncGenerator[RequestOutput, None]:
    """Annotate `results`.

    Closing this generator closes them: so a client that leaves aborts its request.
    """
    async with aclosing(results):  # type: ignore[type-var]
        async for result in results:
            tracer.annotate(result)
            yield result


async def traced_prompt_outputs(
    results: AsyncIterator[tuple[int, RequestOutput]], tracers: Sequence[DeltaTracer]
) -> AsyncGenerator[tuple[int, RequestOutput], None]:
    """Annotate the merged outputs of several prompts, each with its prompt's tracer."""
    async with aclosing(results):  # type: ignore[type-var]
        async for index, result in results:
            tracers[index].annotate(result)
            yield index, result
