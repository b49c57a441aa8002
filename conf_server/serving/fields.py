"""Types of fields that several requests share."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, WithJsonSchema
from vllm.utils import random_uuid

RequestId = Annotated[
    str,
    # `CheckedBody` takes null for absent.
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "null"}]}),
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
