"""The `think` object of a chat request, and what it becomes."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from conf_server.gathering.trace_maker import MadeTrace
from conf_server.refusal import RefusalError
from conf_server.serving.confidence import AnswerConfidenceOptions, Confidence
from conf_server.settings import MAX_WINDOW, ConfidenceSettings
from conf_server.stats.trace import TokenTrace
from conf_server.thinking.answer_extraction import AnswerRule
from conf_server.thinking.consensus import Consensus, can_be_certain_of
from conf_server.thinking.think_plan import Calibrate, ThinkPlan

_WARMUP: Final = 16
"""DeepConf's."""

Extract = Literal["boxed", "regex", "choice", "json", "text"]
Equal = Literal["exact", "number", "latex"]
RuleName = Literal["weighted_share", "beta", "certain", "unanimous_window", "none"]
VoteName = Literal[
    "majority",
    "mean_weighted",
    "tail_weighted",
    "bottom_window_weighted",
    "min_window_weighted",
    "top10_tail_filtered",
    "top10_bottom_window_filtered",
    "self_certainty_borda",
]
TracesShown = Literal["none", "summary", "full"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class ConsensusOptions(_Strict):
    """When what still runs is ended, because more traces would not change the answer."""

    rule: RuleName = Field(
        default="weighted_share",
        description="`weighted_share`: the leading answer has this share of all weights; `beta`: "
        "it is the majority's with this probability (adaptive consistency); `certain`: its lead "
        "is larger than what is outstanding; `unanimous_window`: the last `window` traces "
        "agree; `none`: never.",
    )
    threshold: float = Field(
        default=0.95, gt=0.5, le=1, description="Of `weighted_share` and `beta`."
    )
    min_finished: Annotated[int, Field(ge=1)] = Field(
        default=3, description="Traces with an answer that have to have ended before."
    )
    window: Annotated[int, Field(ge=1)] = Field(
        default=5, description="Of `unanimous_window`: so many traces in a row."
    )


class AnswerOptions(_Strict):
    """How traces are read for answers, and which of them are equal."""

    extract: Extract = Field(
        default="boxed",
        description="`boxed`: what stands in the last \\boxed{}; `regex`: the last match of "
        "`pattern`; `choice`: the last of `choices`; `json`: a member of the last JSON object; "
        "`text`: the whole answer.",
    )
    equal: Equal = Field(
        default="exact",
        description="`exact`: as text; `number`: as numbers; `latex`: as mathematics.",
    )
    pattern: str | None = Field(
        default=None, description="Of `regex`, in RE2's syntax. Its group `answer`, or the first."
    )
    choices: list[str] | None = Field(default=None, description="Of `choice`.")
    key: str | None = Field(default=None, description="Of `json`: which member.")

    def rule(self) -> AnswerRule:
        """The same, for those who read traces."""
        choices = None if self.choices is None else tuple(self.choices)
        return AnswerRule(self.extract, self.equal, self.pattern, choices, self.key)


class ThinkOptions(_Strict):
    """How often a question is thought about, which traces are ended, and how they vote."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "budget": 32,
                    "warmup": 8,
                    "keep_top": 0.1,
                    "answer": {"extract": "boxed", "equal": "number"},
                }
            ]
        }
    )

    budget: Annotated[int, Field(ge=1)] = Field(default=16, description="Traces at most.")
    concurrency: Annotated[int, Field(ge=1)] = Field(
        default=16, description="Traces that run at a time, at most."
    )
    calibrate: Calibrate = Field(
        default="warmup",
        description="Where the threshold comes from: `warmup`: the first `warmup` traces run to "
        "their end, then the others begin; `finishers`: the first `warmup` traces that end, while "
        "others begin; `fixed`: it is `below`; `none`: no trace is ended early.",
    )
    warmup: Annotated[int, Field(ge=1)] | None = Field(
        default=None,
        description="Traces from which the threshold is taken. Default: 16, or a quarter of a "
        "smaller budget than 64.",
    )
    keep_top: float = Field(
        default=0.1,
        gt=0,
        lt=1,
        description="Share of the warm-up's traces that the threshold lets pass: those whose "
        "least confident window is the most confident. DeepConf-low is 0.1, DeepConf-high 0.9.",
    )
    below: float | None = Field(
        default=None, allow_inf_nan=False, description="Nats; the threshold of `fixed`."
    )
    window: Annotated[int, Field(ge=1, le=MAX_WINDOW)] | None = Field(
        default=None, description="Tokens of a window. Default: `confidence.window`."
    )
    top_k: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="Candidates a token's confidence is the mean of."
    )
    consensus: ConsensusOptions = Field(
        default_factory=ConsensusOptions, description="When what still runs is ended."
    )
    vote: Annotated[list[VoteName], Field(min_length=1)] = Field(
        default=["min_window_weighted", "majority"],
        description="The votes that are held; the first one decides.",
    )
    min_voters: Annotated[int, Field(ge=1)] = Field(
        default=3,
        description="Where fewer traces with an answer pass the threshold, all of them vote.",
    )
    answer: AnswerOptions = Field(
        default_factory=AnswerOptions, description="How traces are read for answers."
    )
    max_total_tokens: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="Tokens that all traces may have together."
    )
    traces: TracesShown = Field(
        default="summary",
        description="What the answer tells of each trace: nothing, its numbers, or its text too.",
    )

    def plan(
        self,
        settings: ConfidenceSettings,
        window: int,
        max_tokens: int,
        seed: int | None,
        no_early_stop: str | None,
    ) -> ThinkPlan:
        """The plan, with what the request leaves out.

        Args:
            window: of the request's summary, where `window` is absent.
            max_tokens: that one trace may have.
            no_early_stop: why no answer can be ended early; None where it can.

        Raises:
            RefusalError: naming the field that contradicts another, or this server's limits.
        """
        if self.budget > settings.max_think_traces:
            raise RefusalError(
                "think.budget",
                f"at most {settings.max_think_traces} traces (--max-think-traces).",
                self.budget,
            )
        total = settings.max_think_tokens
        if self.max_total_tokens is not None and self.max_total_tokens > total:
            raise RefusalError(
                "think.max_total_tokens",
                f"at most {total} tokens (--max-think-tokens).",
                self.max_total_tokens,
            )
        if self.consensus.rule == "certain" and not can_be_certain_of(self.vote[0]):
            raise RefusalError(
                "think.consensus.rule",
                "`certain` is known of `majority` alone, and `think.vote` begins with another.",
                self.consensus.rule,
            )
        if self.calibrate != "none" and no_early_stop is not None:
            raise RefusalError("think.calibrate", f"only `none`: {no_early_stop}")
        return ThinkPlan(
            budget=self.budget,
            concurrency=self.concurrency,
            calibrate=self.calibrate,
            warmup=self._warmup(),
            keep_top=self.keep_top,
            below=self._below(),
            window=self.window or window,
            consensus=Consensus(**self.consensus.model_dump()),
            votes=tuple(dict.fromkeys(self.vote)),
            min_voters=self.min_voters,
            answer=self.answer.rule(),
            max_total_tokens=self.max_total_tokens or total,
            max_tokens=max_tokens,
            seed=seed,
            keeps_texts=self.traces == "full",
        )

    def _warmup(self) -> int:
        if self.calibrate not in ("warmup", "finishers"):
            if self.warmup is not None:
                raise RefusalError("think.warmup", _misplaced("calibrate", self.calibrate))
            return 0
        warmup = self.warmup or max(1, min(_WARMUP, self.budget // 4))
        if warmup >= self.budget:
            raise RefusalError(
                "think.warmup",
                f"must be less than `think.budget`, {self.budget}, got {warmup}; without a "
                "warm-up `think.calibrate` is `none`.",
                warmup,
            )
        return warmup

    def _below(self) -> float | None:
        if (self.calibrate == "fixed") == (self.below is None):
            problem = (
                "it is missing: `think.calibrate` is `fixed`."
                if self.below is None
                else _misplaced("calibrate", self.calibrate)
            )
            raise RefusalError("think.below", problem)
        return self.below


def _misplaced(name: str, value: str) -> str:
    return f"it has no place where `think.{name}` is `{value}`."


def traced_confidence(
    think: ThinkOptions,
    given: AnswerConfidenceOptions | None,
    settings: ConfidenceSettings,
    asks_for_logprobs: bool,
) -> AnswerConfidenceOptions:
    """The `confidence` object of each trace.

    The answer carries what the request asks for, or the summary where it asks for nothing.

    Raises:
        RefusalError: it contradicts `think`.
    """
    options = given or AnswerConfidenceOptions()
    if options.early_stop is not None:
        raise RefusalError("confidence.early_stop", "traces are ended as `think` says.")
    if options.include_sampled:
        raise RefusalError(
            "confidence.include_sampled", "traces vote with the confidence of the likeliest alone."
        )
    if options.mode == "empty":
        raise RefusalError("confidence.mode", "traces vote with their confidence: not `empty`.")
    if None not in (think.top_k, options.top_k) and think.top_k != options.top_k:
        raise RefusalError("think.top_k", "it differs from `confidence.top_k`.", think.top_k)
    asked = given is not None or asks_for_logprobs
    mode = options.mode or (settings.mode if asked and settings.mode != "empty" else "stats")
    return options.model_copy(update={"mode": mode, "top_k": think.top_k or options.top_k})


def made_trace(
    text: str,
    confidence: Confidence,
    trace: TokenTrace,
    num_tokens: int,
    finish_reason: str | None,
    stop_reason: str | int | None,
    source: Any,
) -> MadeTrace:
    """A trace that has ended, with what its rows say; nothing where they are not those of all.

    Args:
        trace: the rows.
    """
    confidences = certainty = None
    if finish_reason != "abort" and len(trace) == num_tokens:
        rows = trace.all()
        # A copy, so that the rows do not live as long as this column of them.
        confidences = np.array(confidence.confidences(rows))
        if rows.statistics is not None:
            # The metric of this name is an uncertainty: it has the other sign.
            certainty = -confidence.token_metric(rows, "self_certainty")
    return MadeTrace(text, confidences, certainty, num_tokens, finish_reason, stop_reason, source)
