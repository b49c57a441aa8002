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
