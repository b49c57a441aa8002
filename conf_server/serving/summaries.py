"""What a scored text gains as a whole, as OpenAPI describes it."""

from __future__ import annotations

from pydantic import BaseModel, Field

ConfidenceSummary = dict[str, float | None]


class SequenceMetric(BaseModel):
    """One metric of an answer."""

    value: float | None = Field(description="In nats where it is made of logarithms.")
    exact: bool = Field(description="False: computed from less than the metric is defined on.")
    reason: str | None = Field(
        default=None, description="Why one of the server's default methods has no value."
    )


class EarlyStopped(BaseModel):
    """Where an answer was ended for its low confidence."""

    token: int = Field(description="Tokens that the answer has.")
    value: float = Field(description="Nats: mean confidence of the window that has ended it.")
    below: float = Field(description="The request's threshold.")
    window: int = Field(description="Tokens of the window.")


class WithEarlyStop(BaseModel):
    """What a choice gains where the request has `confidence.early_stop`."""

    early_stop: EarlyStopped | None = Field(
        default=None,
        description="Null where the answer has ended otherwise. If it was ended, `finish_reason` "
        "is `stop` and `stop_reason` is `confidence`.",
    )


class WithSummary(BaseModel):
    """What an answer gains at its end."""

    confidence_summary: ConfidenceSummary | None = Field(
        default=None,
        description="Means of the tokens' confidence: of all, of the last window, of the lowest.",
    )
    uncertainty: dict[str, SequenceMetric] | None = Field(
        default=None,
        description="The metrics asked for in `confidence.metrics`, or else the server's "
        "--default-methods, by name.",
    )
