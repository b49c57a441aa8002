"""What POST /v1/think/chat/completions answers beside a chat's answer."""

from __future__ import annotations

from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

THOUGHT_EXAMPLE: Final[Any] = {
    "answer": "70",
    "stopped_by": "consensus",
    "threshold": 14.2,
    "groups": [{"answer": "70", "votes": 2, "weight": 29.4, "traces": [0, 1]}],
    "votes": {"min_window_weighted": {"answer": "70", "num_votes": 2, "confidence": 14.7}},
    "traces": [
        {
            "index": 0,
            "phase": "warmup",
            "status": "finished",
            "answer": "70",
            "num_tokens": 9120,
            "min_conf": 14.9,
            "mean_conf": 17.3,
            "tail_conf": 18.1,
            "bottom_window_conf": 15.2,
            "certainty": 21.0,
            "voted": True,
        }
    ],
    "usage": {"warmup_tokens": 9120, "final_tokens": 8741},
    "warnings": [],
}


class AnswerGroup(BaseModel):
    """Traces whose answers are equal."""

    answer: str = Field(description="As the first of them gives it.")
    votes: int = Field(description="Traces of them that vote.")
    weight: float | None = Field(description="Of their votes together, by the vote that decides.")
    traces: list[int] = Field(description="Their numbers, voting or not.")


class HeldVote(BaseModel):
    """The outcome of one vote."""

    answer: str | None = Field(description="The winner; null where nobody votes.")
    num_votes: int = Field(description="That were counted, of all answers.")
    confidence: float | None = Field(
        description="Mean of what they were weighted by, in nats; null for a plain majority."
    )


class TraceSummary(BaseModel):
    """One trace. Confidences are in nats, higher for a surer model; null where the trace was
    cancelled, so that not all of its tokens' are known."""

    index: int = Field(description="Its number: the order in which traces were started.")
    phase: Literal["warmup", "final"] = Field(description="`final`: it could be ended early.")
    status: str = Field(
        description="`finished`, `stopped_low_confidence`, `cancelled` or `length`."
    )
    answer: str | None = Field(description="That was read in it.")
    num_tokens: int = Field(description="That were generated.")
    min_conf: float | None = Field(description="Of its least confident full window.")
    mean_conf: float | None = Field(description="Of all its tokens.")
    tail_conf: float | None = Field(description="Of its last window.")
    bottom_window_conf: float | None = Field(description="Of a tenth of its windows, the lowest.")
    certainty: float | None = Field(
        description="Mean divergence of its tokens' distributions from the flat one."
    )
    voted: bool = Field(description="Whether its answer has counted.")
    text: str | None = Field(default=None, description="Where `think.traces` is `full`.")


class PhaseTokens(BaseModel):
    """Tokens that were generated."""

    warmup_tokens: int = Field(description="By traces that could not be ended early.")
    final_tokens: int = Field(description="By the others.")


class Thinking(BaseModel):
    """What has come of a question that was thought about many times."""

    model_config = ConfigDict(json_schema_extra={"examples": [THOUGHT_EXAMPLE]})

    answer: str | None = Field(description="The winner of the first vote; null where there is none")
    stopped_by: Literal["budget", "consensus", "max_total_tokens"] = Field(
        description="Why no further trace was made."
    )
    threshold: float | None = Field(description="Nats, below which a window ended a trace.")
    groups: list[AnswerGroup] = Field(description="All answers, the heaviest first.")
    votes: dict[str, HeldVote] = Field(description="By name, as `think.vote` lists them.")
    traces: list[TraceSummary] | None = Field(default=None, description="In their order.")
    usage: PhaseTokens = Field(description="All tokens of all traces.")
    warnings: list[str] = Field(description="`filter_relaxed`, `no_answer`, ...")


class WithThinking(BaseModel):
    """What an answer gains."""

    think: Thinking = Field(description="How it was found.")
