"""The endpoints that a file of requests can be sent to, one for each batch command."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final


@dataclass(frozen=True)
class Endpoint:
    """What a batch command posts to, and what is special about its lines.

    Attributes:
        command: the first word after `conf-server`.
        path: the path of the URL.
        object: what the field `object` of an answer says.
        body: what a line of the input holds, in words, for --help.
        repeated: fields of the request that a line of the output repeats where it has a
            `reference` or is `correct` or not, because the answer does not hold the texts that the
            report needs.
        refused: fields that the server takes and a line may not have, with what to do instead.
        rewritten: makes the request of a line's own fields.
        fields: that every request gets.
        has_uncertainty: whether the request has an object `uncertainty`, and the command the
            flags that fill it in.
    """

    command: str
    path: str
    object: str
    body: str
    repeated: tuple[str, ...] = ()
    refused: Mapping[str, str] = field(default_factory=dict)
    rewritten: Callable[[dict[str, Any]], dict[str, Any]] = dict
    fields: Mapping[str, Any] = field(default_factory=dict)
    has_uncertainty: bool = False


SCORE: Final = Endpoint(
    command="score",
    path="/v1/score",
    object="score",
    body="a body of POST /v1/score without `items`",
    repeated=("completion", "completions"),
    refused={"items": "put each item on a line of its own"},
)

UNCERTAINTY: Final = Endpoint(
    command="uncertainty",
    path="/v1/uncertainty",
    object="uncertainty",
    body="a body of POST /v1/uncertainty",
    repeated=("messages", "prompt"),
    has_uncertainty=True,
)

REPEATED: Final = tuple(name for one in (SCORE, UNCERTAINTY) for name in one.repeated)
"""All fields of requests that some command's output repeats."""
