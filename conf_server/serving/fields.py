"""Types of fields that several requests share."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field
from vllm.utils import random_uuid


def _new_if_null(value: Any) -> Any:
    return random_uuid() if value is None else value


RequestId = Annotated[
    str,
    BeforeValidator(_new_if_null, json_schema_input_type=str | None),
    Field(
        default_factory=random_uuid,
        description="The client's name for this request. Null or absent: the server makes one up.",
    ),
]

Priority = Annotated[
    int,
    # It travels to the engine in 64 bits.
    Field(ge=-(2**63), le=2**63 - 1, description="Lower is earlier, with priority scheduling."),
]
