"""The `confidence` object of a request, and what becomes of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from vllm.exceptions import VLLMValidationError
from vllm.sampling_params import SamplingParams

from conf_server.engine.output_processor import request_trace
from conf_server.settings import ConfidenceSettings, Mode
from conf_server.stats.confidence import confidence_summary, token_confidence
from conf_server.stats.sequence import METRICS, top_k_entropy
from conf_server.stats.trace import TraceRows

MetricName = Literal[
    "perplexity", "maximum_sequence_probability", "mean_token_entropy", "max_token_entropy"
]


class ConfidenceOptions(BaseModel):
    """How sure the model was: what to compute and what to send. All fields are optional."""

    model_config = ConfigDict(extra="forbid", strict=True)

    mode: Mode | None = Field(default=None, description="What the answer carries.")
    top_k: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="Candidates a token's confidence is the mean of."
    )
    window: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = Field(
        default=None, description="Sliding window of the summary, in tokens."
    )
    metrics: list[MetricName] | None = Field(
        default=None, description="Sequence statistics to return under `uncertainty`."
    )


@dataclass(frozen=True)
class Confidence:
    """The options of one request with the server's defaults filled in."""

    mode: Mode
    top_k: int
    window: int
    metrics: tuple[str, ...]

    @classmethod
    def resolve(
        cls, options: ConfidenceOptions | None, settings: ConfidenceSettings, max_logprobs: int
    ) -> Confidence:
        """Request over server.

        Args:
            max_logprobs: most candidates the engine may be asked for (`--max-logprobs`).

        Raises:
            VLLMValidationError: top_k above that.
        """
        given = options or ConfidenceOptions()
        top_k = given.top_k or settings.top_k
        if top_k > max_logprobs:
            raise VLLMValidationError(
                f"confidence.top_k must be at most {max_logprobs} (--max-logprobs), got {top_k}.",
                parameter="confidence.top_k",
                value=top_k,
            )
        return cls(
            mode=given.mode or settings.mode,
            top_k=top_k,
            window=given.window or settings.window,
            metrics=tuple(given.metrics or ()),
        )

    def width(self, shown: int, vocab_size: int) -> int:
        """Candidates a row has to hold when the client wants to see `shown` (-1: all)."""
        if self.mode != "per_token":
            shown = 0
        return vocab_size if shown == -1 else max(self.top_k, shown)

    def ask_engine(self, params: SamplingParams, shown: int, vocab_size: int) -> None:
        """Make `params` ask for what the mode needs."""
        if self.mode == "empty":
            params.logprobs = None
            return
        params.logprobs = self.width(shown, vocab_size)
        request_trace(params, "samples")

    def token_confidences(self, rows: TraceRows) -> list[float | None]:
        """Confidence of each token, None where it has none."""
        values = token_confidence(rows.candidate_logprobs, self.top_k)
        return [finite(value) for value in values.tolist()]

    def summary(self, rows: TraceRows) -> dict[str, float | None]:
        """`confidence_summary` of a whole answer."""
        return confidence_summary(
            token_confidence(rows.candidate_logprobs, self.top_k), self.window
        )

    def extras(self, rows: TraceRows) -> dict[str, Any]:
        """What a finished answer gains: its summary, and metrics where asked for."""
        extras: dict[str, Any] = {"confidence_summary": self.summary(rows)}
        if self.metrics:
            extras["uncertainty"] = sequence_metrics(rows, self.top_k, self.metrics)
        return extras


def sequence_metrics(
    rows: TraceRows, top_k: int, names: tuple[str, ...]
) -> dict[str, dict[str, Any]]:
    """Metrics by name; an entropy of the top k says that it is not exact."""
    entropy = None
    answer: dict[str, dict[str, Any]] = {}
    for name in names:
        metric = METRICS[name]
        if metric.needs == "entropy":
            if entropy is None:
                entropy = top_k_entropy(rows.candidate_logprobs, top_k)
            value = metric.compute(entropy)
        else:
            value = metric.compute(rows.logprobs)
        answer[name] = {"value": finite(value), "exact": metric.needs != "entropy"}
    return answer


def finite(value: float | None) -> float | None:
    """JSON has no NaN and no infinity: both become null."""
    return value if value is not None and -float("inf") < value < float("inf") else None
