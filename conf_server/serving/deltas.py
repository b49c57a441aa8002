"""From the engine's outputs to the tokens that one call of `_create_*_logprobs` has to show."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any

import numpy as np
from numpy.typing import NDArray
from vllm.outputs import CompletionOutput, RequestOutput
from vllm.tokenizers import TokenizerLike

from conf_server.engine.client.decoding import CONTEXT_TOKENS
from conf_server.engine.client.output_processor import SampleTrace
from conf_server.engine.client.stock_logprobs import append_stock_rows
from conf_server.serving.confidence import Confidence
from conf_server.serving.logprobs_encoder import EncodedTokens
from conf_server.serving.requests import ConfidenceRequest
from conf_server.serving.splices import Splices
from conf_server.stats.trace import TokenTrace, TraceRows


class TraceDelta:
    """The tokens of one output: a streamed chunk, or a whole answer.

    It takes the place of `CompletionOutput.logprobs` on the way into vLLM's generators, which
    hand it to `_create_chat_logprobs` or `_create_completion_logprobs` without looking at it.

    Attributes:
        confidence: what the request asked for.
        trace: every token of the answer so far, or None in mode `empty`.
        start: position in the trace of this delta's first token.
        stop: position after its last one.
        finished: whether the answer ends with this delta, so that its summary is due.
        splices: where text for the answer can be held; None where nobody fills it in.
    """

    __slots__ = ("_rows", "confidence", "finished", "splices", "start", "stop", "trace")

    def __init__(
        self,
        confidence: Confidence,
        trace: TokenTrace | None,
        start: int,
        stop: int,
        finished: bool,
        splices: Splices | None = None,
    ) -> None:
        self.confidence = confidence
        self.trace = trace
        self.start = start
        self.stop = stop
        self.finished = finished
        self.splices = splices
        self._rows: TraceRows | None = None

    def rows(self) -> TraceRows:
        """The delta's part of the trace. Not in mode `empty`, which has none."""
        if self._rows is None:
            assert self.trace is not None
            self._rows = self.trace.rows(self.start, self.stop)
        return self._rows

    def extras(self) -> dict[str, Any]:
        """What the answer gains where it ends: its summary and its metrics."""
        if not self.finished or self.trace is None:
            return {}
        # Rows that travel at the end are lost with an answer that was broken off: a summary
        # of fewer tokens than the answer has would pass for the whole.
        complete = len(self.trace) >= self.stop
        return self.confidence.extras(self.trace.rows(0, self.stop if complete else 0))

    def columns(self) -> dict[str, NDArray[np.floating]]:
        """Numbers of each token that an entry has beside OpenAI's."""
        return {"confidence": self.confidence.confidences(self.rows())}

    def metrics(self) -> dict[str, NDArray[np.floating]]:
        """The request's metrics of each token."""
        return self.confidence.token_metrics(self.rows())

    def context(self) -> list[int]:
        """The tokens before this delta, which decoding needs for characters that are split."""
        assert self.trace is not None
        first = max(0, self.start - CONTEXT_TOKENS)
        return self.trace.rows(first, self.start).token_ids.tolist()

    def encoded(self, tokenizer: TokenizerLike, as_token_ids: bool) -> EncodedTokens:
        """The tokens, to be written as JSON. Only where there are `splices`."""
        assert self.splices is not None
        vocabulary = self.splices.encoder.vocabulary(tokenizer, as_token_ids)
        return EncodedTokens(vocabulary, self.rows(), self.context)


class DeltaTracer:
    """Turns the log-probabilities of one request's outputs into `TraceDelta`s."""

    def __init__(self, confidence: Confidence, width: int, splices: Splices | None) -> None:
        self._confidence = confidence
        self._splices = splices
        self._width = width
        self._seen: dict[int, int] = {}
        self._stock: dict[int, TokenTrace] = {}

    def annotate(self, result: RequestOutput) -> None:
        """Put a `TraceDelta` into the place of every output's log-probabilities."""
        for output in result.outputs:
            start = self._seen.get(output.index, 0)
            stop = self._seen[output.index] = start + len(output.token_ids)
            trace = None if self._confidence.mode == "empty" else self._trace(output)
            delta: Any = TraceDelta(
                self._confidence,
                trace,
                start,
                stop,
                output.finish_reason is not None,
                self._splices,
            )
            output.logprobs = delta

    def _trace(self, output: CompletionOutput) -> TokenTrace:
        rows: Any = output.logprobs
        if isinstance(rows, SampleTrace):
            return rows.trace
        trace = self._stock.setdefault(output.index, TokenTrace(self._width))
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
