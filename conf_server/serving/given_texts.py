"""Texts and chats that clients send to be judged, and what they are as plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from conf_server.backends.base import Chat, Completion
from conf_server.refusal import RefusalError

Text = Annotated[str, Field(strict=True)]
# The first mistake in a list is told, and no more: to make an object of each of 100,000 takes long.
TokenIds = Annotated[
    list[Annotated[int, Field(strict=True, ge=0, le=2**31 - 1)]], Field(fail_fast=True)
]
Messages = Annotated[list[dict[str, Any]], Field(fail_fast=True)]


class TextObject(BaseModel):
    """A text with more to be said of it."""

    model_config = ConfigDict(extra="forbid", strict=True)

    text: Text | None = Field(default=None, description="The text,")
    token_ids: TokenIds | None = Field(
        default=None, description="or its tokens, where another tokenization would not do."
    )
    finished: bool = Field(
        default=False,
        description="The answer ends here: the model's end token is scored as its last token. "
        "It is no part of the text that is compared.",
    )


GivenText = Text | TextObject
GivenCompletion = Text | TokenIds | TextObject


def completion_of(given: str | list[int] | TextObject) -> Completion:
    """A text of a client's as plain data; `check_given` has passed it."""
    if isinstance(given, str):
        return Completion(given)
    if isinstance(given, list):
        return Completion(tuple(given))
    content = tuple(given.token_ids) if given.token_ids is not None else given.text or ""
    return Completion(content, given.finished)


def check_given(given: str | list[int] | TextObject, path: str) -> None:
    """
    Raises:
        RefusalError: the text is empty, or is given twice or not at all.
    """
    if isinstance(given, TextObject) and (given.text is None) == (given.token_ids is None):
        raise RefusalError(path, "give either `text` or `token_ids`.")
    completion = completion_of(given)
    if not completion.content and not completion.finished:
        raise RefusalError(path, "it must not be empty.")


def chat_of(messages: Sequence[Mapping[str, Any]], fields: dict[str, Any], path: str = "") -> Chat:
    """A chat and how it is rendered; takes the fields that say so out of `fields`.

    `add_generation_prompt` and `continue_final_message` may stand among the template's
    arguments, where transformers has them, as well as beside the messages, where vLLM has them.

    Raises:
        RefusalError: a field of the wrong type, or two that contradict each other.
    """
    template = _taken(fields, "chat_template", str, path)
    kwargs = _taken(fields, "chat_template_kwargs", dict, path)
    kwargs = None if kwargs is None else dict(kwargs)
    adds = _flag("add_generation_prompt", fields, kwargs, path)
    continues = _flag("continue_final_message", fields, kwargs, path)
    if adds and continues:
        field = f"{path}continue_final_message"
        raise RefusalError(field, f"it excludes `{path}add_generation_prompt`.")
    return Chat(
        messages=tuple(messages),
        template=template,
        template_kwargs=kwargs,
        add_generation_prompt=not continues if adds is None else adds,
        continue_final_message=bool(continues),
    )


def _flag(
    name: str, fields: dict[str, Any], kwargs: dict[str, Any] | None, path: str
) -> bool | None:
    beside: bool | None = _taken(fields, name, bool, path)
    inside = _taken(kwargs or {}, name, bool, f"{path}chat_template_kwargs.")
    if beside is not None and inside is not None and beside != inside:
        field = f"{path}chat_template_kwargs.{name}"
        raise RefusalError(field, f"it contradicts `{path}{name}`.")
    return inside if beside is None else beside


def _taken(fields: dict[str, Any], name: str, kind: type, path: str) -> Any:
    """The value of a field, taken out; None where there is none."""
    value = fields.pop(name, None)
    if value is not None and not isinstance(value, kind):
        field = f"{path}{name}"
        raise RefusalError(field, f"it must be of type {kind.__name__}.")
    return value
