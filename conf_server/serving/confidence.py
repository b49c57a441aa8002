"""The `confidence` object of a request, and what becomes of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from conf_server.refusal import RefusalError
from conf_server.settings import MAX_WINDOW, ConfidenceSettings, Mode
from conf_server.stats.columns import TokenStatistic
from conf_server.stats.confidence import (
    confidence_summary,
    token_confidence,
    with_sampled_token,
)
from conf_server.stats.early_stop import STOP_REASON, Action, EarlyStop, ThinkingTokens
from conf_server.stats.metrics import LOGPROB_METRICS, METRICS, MetricValues, metric_values
from conf_server.stats.trace import TraceRows

MetricName = Literal[
    "perplexity",
    "maximum_sequence_probability",
    "mean_token_entropy",
    "max_token_entropy",
    "self_certainty",
    "renyi_neg",
    "fisher_rao",
    "probability_gap",
    "boosted_prob_sequence",
]


class EarlyStopOptions(BaseModel):
    """When an answer is ended: with the first full window whose mean confidence is too low."""

    model_config = ConfigDict(extra="forbid", strict=True)

    below: float = Field(
        allow_inf_nan=False,
        description="Nats; a window with a smaller mean confidence ends the answer.",
    )
    window: Annotated[int, Field(ge=1, le=MAX_WINDOW)] | None = Field(
        default=None, description="Tokens of a window. Default: `confidence.window`."
    )
    min_tokens: Annotated[int, Field(ge=1)] | None = Field(
        default=None,
        description="Tokens that an answer has at least, not less than the window. "
        "Default: the window.",
    )
    action: Action = Field(
        default="stop",
        description="end_thinking: instead of the answer only its thinking is ended, with the "
        "tokens of the reasoning parser, and the model goes on to answer.",
    )

    def resolved(self, window: int, thinking: ThinkingTokens | None) -> EarlyStop:
        """The rule, with what the request leaves out.

        Args:
            window: of the request's summary.
            thinking: as in `Confidence.resolve`.

        Raises:
            RefusalError: an answer would be ended before a window is full, or there is no thinking
                to end.
        """
        if self.action == "end_thinking" and thinking is None:
            raise RefusalError(
                "confidence.early_stop.action",
                "`end_thinking` needs /v1/chat/completions of a server with --reasoning-parser "
                "(not --backend transformers), and a parser that ends thinking with fixed tokens.",
                self.action,
            )
        window = self.window or window
        least = window if self.min_tokens is None else self.min_tokens
        if least < window:
            raise RefusalError(
                "confidence.early_stop.min_tokens",
                f"must be at least the window, {window}, got {least}.",
                least,
            )
        ended = thinking if self.action == "end_thinking" else None
        return EarlyStop(self.below, window, least, ended)


class ConfidenceOptions(BaseModel):
    """How sure the model was: what to compute and what to send. All fields are optional."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={"examples": [{"mode": "stats", "metrics": ["perplexity"]}]},
    )

    mode: Mode | None = Field(default=None, description="What the answer carries.")
    top_k: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="Candidates a token's confidence is the mean of."
    )
    window: Annotated[int, Field(ge=1, le=MAX_WINDOW)] | None = Field(
        default=None, description="Sliding window of the summary, in tokens."
    )
    metrics: list[MetricName] | None = Field(
        default=None, description="Sequence statistics to return under `uncertainty`."
    )


class AnswerConfidenceOptions(ConfidenceOptions):
    """The same of a text that is still to be made."""

    early_stop: EarlyStopOptions | None = Field(
        default=None, description="End the answer where its confidence becomes low."
    )
    include_sampled: bool | None = Field(
        default=None,
        description="Let the sampled token count beside the `top_k` likeliest, twice where it is "
        "one of them. Default: false.",
    )


@dataclass(frozen=True)
class Confidence:
    """The options of one request with the server's defaults filled in.

    Attributes:
        engine_statistics: whether the workers compute exact statistics. Otherwise they are
            made of the top k log-probabilities.
        vocab_size: size of the vocabulary, V in formulas.
        masked: a grammar masks the logits; vLLM's log-probabilities, unlike the worker's
            statistics, are then of what it allows, and not of what the model thinks.
        takes_defaults: the request names no metrics, so that it gets what the server has by
            default.
        early_stop: when the answer is ended; None for never.
        include_sampled: whether a token's confidence is that of `with_sampled_token`.
    """

    mode: Mode
    top_k: int
    window: int
    metrics: tuple[str, ...]
    engine_statistics: bool
    vocab_size: int
    masked: bool = False
    takes_defaults: bool = True
    early_stop: EarlyStop | None = None
    include_sampled: bool = False

    @classmethod
    def resolve(
        cls,
        options: ConfidenceOptions | None,
        settings: ConfidenceSettings,
        candidates: int,
        vocab_size: int,
        thinking: ThinkingTokens | None = None,
    ) -> Confidence:
        """Fill in the server's defaults where the request says nothing.

        Args:
            candidates: most of the likeliest tokens that a row can name.
            thinking: what begins and ends the thinking of the request's answers, where it can be
                ended early.

        Raises:
            RefusalError: `top_k` is above what the engine may be asked for, answers cannot be
                ended early, or an early stop would go by another number than the answer's.
        """
        given = options or ConfidenceOptions()
        top_k = given.top_k or settings.top_k
        if top_k > candidates:
            raise RefusalError(
                "confidence.top_k",
                f"must be at most {candidates} (--max-logprobs), got {top_k}.",
                top_k,
            )
        mode, window = given.mode or settings.mode, given.window or settings.window
        early, include_sampled = None, False
        if isinstance(given, AnswerConfidenceOptions):
            early, include_sampled = given.early_stop, bool(given.include_sampled)
        if early is not None and include_sampled:
            raise RefusalError(
                "confidence.include_sampled",
                "not together with `early_stop`, which goes by the confidence of the likeliest "
                "alone.",
            )
        if early is not None and (obstacle := no_early_stop(mode, settings)):
            raise RefusalError("confidence.early_stop", obstacle)
        return cls(
            mode=mode,
            top_k=top_k,
            window=window,
            metrics=tuple(dict.fromkeys(_default_metrics(settings, given.metrics))),
            engine_statistics=settings.engine_statistics,
            vocab_size=vocab_size,
            takes_defaults=given.metrics is None,
            early_stop=None if early is None else early.resolved(window, thinking),
            include_sampled=include_sampled,
        )

    def under_grammar(self) -> Confidence:
        """The same for an answer whose logits a grammar masks.

        Raises:
            RefusalError: the sampled token is to count. Its log-probability is of what the grammar
                allows, and a confidence is of what the model thinks.
        """
        if self.include_sampled:
            raise RefusalError(
                "confidence.include_sampled",
                "not where a grammar masks the logits: the sampled token's log-probability is then "
                "of what the grammar allows, not of what the model thinks.",
            )
        return replace(self, masked=True)

    def width(self, shown: int) -> int:
        """How many candidates a row has to hold, if the client wants to see `shown` (-1: all)."""
        if self.mode != "per_token":
            shown = 0
        if shown == -1:
            return self.vocab_size
        return shown if self.engine_statistics else max(self.top_k, shown)

    def confidences(self, rows: TraceRows) -> NDArray[np.floating]:
        """Confidence of each token in nats, higher for a surer model; NaN where it has none."""
        of_likeliest: NDArray[np.floating]
        if rows.statistics is not None:
            of_likeliest = rows.statistics[:, TokenStatistic.CONFIDENCE]
        else:
            of_likeliest = token_confidence(rows.candidate_logprobs, self.top_k)
        if not self.include_sampled:
            return of_likeliest
        return with_sampled_token(of_likeliest, rows.logprobs, self.top_k)

    def summary(self, rows: TraceRows) -> dict[str, float | None]:
        """The `confidence_summary` of a whole answer."""
        return confidence_summary(self.confidences(rows), self.window)

    def uncertainty(self, rows: TraceRows) -> dict[str, dict[str, Any]]:
        """The metrics of a whole answer: `{name: {"value", "exact"}}`."""
        values = {name: self._metric(rows, name) for name in self.metrics}
        return {
            name: {
                "value": finite(metric.value),
                "exact": metric.exact and not (self.masked and name in LOGPROB_METRICS),
            }
            for name, metric in values.items()
        }

    def entropies(self, rows: TraceRows) -> NDArray[np.floating]:
        """Entropy of each token's distribution in nats; without statistics, of its top k."""
        return self._metric(rows, "mean_token_entropy").tokens

    def token_metric(self, rows: TraceRows, name: str) -> NDArray[np.floating]:
        """One metric of each token."""
        return self._metric(rows, name).tokens

    def token_metrics(self, rows: TraceRows) -> dict[str, NDArray[np.floating]]:
        """The request's metrics of each token, by name."""
        return {name: self.token_metric(rows, name) for name in self.metrics}

    def _metric(self, rows: TraceRows, name: str) -> MetricValues:
        return metric_values(rows, name, self.top_k, self.vocab_size)

    def extras(self, rows: TraceRows) -> dict[str, Any]:
        """What a finished answer gains: its summary, and the metrics that the request names."""
        extras: dict[str, Any] = {"confidence_summary": self.summary(rows)}
        if self.metrics:
            extras["uncertainty"] = self.uncertainty(rows)
        return extras


def no_early_stop(mode: Mode, settings: ConfidenceSettings) -> str | None:
    """Why no answer can be ended early; None where it can."""
    if mode == "empty":
        return "mode `empty` computes no confidence."
    if (reason := settings.statistics_obstacle) is not None:
        return f"it needs exact token statistics, and there are none: {reason}."
    return settings.early_stop_obstacle


def check_stop_strings(confidence: Confidence, stop: str | Sequence[str] | None) -> None:
    """Refuse a stop string that could not be told from an early stop.

    Raises:
        RefusalError: naming the field.
    """
    if confidence.early_stop is not None:
        refuse_stop_reason(stop)


def refuse_stop_reason(stop: str | Sequence[str] | None) -> None:
    """The same where answers may be ended early.

    Raises:
        RefusalError: naming the field.
    """
    if STOP_REASON in ([stop] if isinstance(stop, str) else stop or ()):
        raise RefusalError("stop", f"{STOP_REASON!r} is the stop_reason of an early stop.")


def check_shown(shown: int, field: str, candidates: int, vocab_size: int) -> None:
    """Refuse more candidates than a row can name, in every mode: some want none of them.

    Args:
        shown: of each token; -1 for the whole vocabulary.
        field: the request's name for it.
        candidates: as in `Confidence.resolve`.

    Raises:
        RefusalError: naming the field.
    """
    if shown > candidates or (shown == -1 and candidates < vocab_size):
        raise RefusalError(field, f"must be at most {candidates} (--max-logprobs).", shown)


def _default_metrics(settings: ConfidenceSettings, named: list[MetricName] | None) -> Sequence[str]:
    """The metrics that a request names, or else those that the server was started with."""
    if named is not None:
        return named
    return [name for name in settings.default_methods if name in METRICS]


def finite(value: float | None) -> float | None:
    """A number for JSON, which has no NaN and no infinity: both become null."""
    return value if value is not None and -float("inf") < value < float("inf") else None


def finite_all(values: NDArray) -> list[float | None]:
    """`finite` of each number."""
    return [finite(value) for value in values.tolist()]


def by_token(columns: Mapping[str, NDArray]) -> list[dict[str, float | None]]:
    """For each token its numbers by name; an empty list if there are no columns."""
    lists = map(finite_all, columns.values())
    return [dict(zip(columns, numbers, strict=True)) for numbers in zip(*lists, strict=True)]
