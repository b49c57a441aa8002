"""The tokens of an answer that one chunk of it has to show."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from conf_server.serving.confidence import Confidence
from conf_server.serving.fragments import Vocabulary
from conf_server.serving.logprobs_encoder import EncodedTokens
from conf_server.serving.splices import Splices
from conf_server.stats.early_stop import STOP_REASON, early_stop
from conf_server.stats.split_characters import CONTEXT_TOKENS
from conf_server.stats.trace import TokenTrace, TraceRows


class TraceDelta:
    """The tokens of one output: a streamed chunk, or a whole answer.

    With vLLM it takes the place of `CompletionOutput.logprobs` on the way into its generators,
    which hand it to `_create_chat_logprobs` or `_create_completion_logprobs` without looking at it.

    Attributes:
        confidence: what the request asked for.
        trace: every token of the answer so far, or None in mode `empty`.
        start: position in the trace of this delta's first token.
        stop: position after its last one.
        finished: whether the answer ends with this delta, so that its summary is due.
        splices: where text for the answer can be held; None where nobody fills it in.
        estimates: further ones of the whole answer, which stand beside its metrics.
    """

    __slots__ = (
        *(
            "_extras",
            "_rows",
            "confidence",
            "estimates",
            "finished",
            "splices",
            "start",
            "stop",
            "trace",
        ),
    )

    def __init__(
        self,
        confidence: Confidence,
        trace: TokenTrace | None,
        start: int,
        stop: int,
        finished: bool,
        splices: Splices | None = None,
        estimates: Mapping[str, Any] | None = None,
    ) -> None:
        self.confidence = confidence
        self.trace = trace
        self.start = start
        self.stop = stop
        self.finished = finished
        self.splices = splices
        self.estimates = estimates or {}
        self._rows: TraceRows | None = None
        self._extras: dict[str, Any] | None = None

    def rows(self) -> TraceRows:
        """The delta's part of the trace. Not in mode `empty`, which has none."""
        if self._rows is None:
            assert self.trace is not None
            self._rows = self.trace.rows(self.start, self.stop)
        return self._rows

    def extras(self) -> dict[str, Any]:
        """What the answer gains where it ends: its summary and its metrics, computed once."""
        if self._extras is None:
            self._extras = self._made_extras()
        return self._extras

    def _made_extras(self) -> dict[str, Any]:
        if not self.finished or self.trace is None:
            return {}
        # Rows that travel at the end are lost with an answer that was broken off: a summary
        # of fewer tokens than the answer has would pass for the whole.
        complete = len(self.trace) >= self.stop
        extras = self.confidence.extras(self.trace.rows(0, self.stop if complete else 0))
        if self.estimates:
            extras["uncertainty"] = {**extras.get("uncertainty", {}), **self.estimates}
        return extras

    def early_stop(
        self, stop_reason: str | int | None, thinking: int | None = None
    ) -> dict[str, Any] | None:
        """Where the answer, or its thinking, was ended early; None where neither was.

        Args:
            stop_reason: of the answer, which ends with this delta.
            thinking: tokens of the thinking that was ended; None if none was.
        """
        rule = self.confidence.early_stop
        tokens = self.stop if stop_reason == STOP_REASON else thinking
        if rule is None or tokens is None or self.trace is None or len(self.trace) < tokens:
            return None
        return early_stop(rule, self.confidence.confidences(self.trace.rows(0, tokens)))

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

    def encoded(self, vocabulary: Vocabulary) -> EncodedTokens:
        """The tokens, to be written as JSON."""
        return EncodedTokens(vocabulary, self.rows(), self.context)
