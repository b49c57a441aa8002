"""The endpoints that a file of requests can be sent to, one for each batch command."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final


class LineError(ValueError):
    """A line that cannot be sent. The message says why."""


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
        filled: the object of the request that flags of the command fill in; empty for none.
        concurrency: requests under way at once, unless the command line says otherwise.
    """

    command: str
    path: str
    object: str
    body: str
    repeated: tuple[str, ...] = ()
    refused: Mapping[str, str] = field(default_factory=dict)
    rewritten: Callable[[dict[str, Any]], dict[str, Any]] = dict
    fields: Mapping[str, Any] = field(default_factory=dict)
    filled: str = ""
    concurrency: int = 32


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
    filled="uncertainty",
)


def _chat_of_prompt(body: dict[str, Any]) -> dict[str, Any]:
    """A request with a `prompt` as the only message of a chat."""
    if "prompt" not in body:
        return body
    if "messages" in body:
        raise LineError("`prompt`: give either `prompt` or `messages`")
    rest = {name: value for name, value in body.items() if name != "prompt"}
    if not isinstance(body["prompt"], str):
        raise LineError("`prompt`: must be a text, which becomes the message of a chat")
    return {"messages": [{"role": "user", "content": body["prompt"]}], **rest}


THINK: Final = Endpoint(
    command="think",
    path="/v1/think/chat/completions",
    object="chat.completion",
    body="a chat request with `think`, or one with a text `prompt` in place of `messages`",
    repeated=("messages",),
    refused={
        "question": "its name is `prompt`",
        "answer": "the right answer is `reference`; how one is found is `think.answer`",
    },
    rewritten=_chat_of_prompt,
    filled="think",
    concurrency=4,
)

REPEATED: Final = tuple(name for one in (SCORE, UNCERTAINTY, THINK) for name in one.repeated)
"""All fields of requests that some command's output repeats."""
