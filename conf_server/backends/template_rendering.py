"""Chats as token ids, by the tokenizer's own chat template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from conf_server.backends.base import Chat, Turn
from conf_server.refusal import RefusalError


def turns(chat: Chat, path: str) -> tuple[Turn, ...]:
    """The conversation, its parts of text joined by line ends.

    Raises:
        RefusalError: a message is none, or holds more than text; fields begin with `path`.
    """
    return tuple(
        Turn(str(message["role"]), message["content"] or "")
        for message in _messages(chat.messages, path)
    )


def rendered_chat(tokenizer: Any, chat: Chat, path: str) -> list[int]:
    """Token ids of a chat.

    Args:
        tokenizer: of transformers' kind.

    Raises:
        RefusalError: as `turns`; or there is no template, or it does not take the chat.
    """
    messages = _messages(chat.messages, path)
    if not messages:
        raise RefusalError(f"{path}messages", "there are none.")
    if chat.template is None and not getattr(tokenizer, "chat_template", None):
        raise RefusalError(
            f"{path}messages", "the model's tokenizer has no chat template: send a prompt instead."
        )
    try:
        ids = tokenizer.apply_chat_template(
            messages,
            chat_template=chat.template,
            add_generation_prompt=chat.add_generation_prompt and not chat.continue_final_message,
            continue_final_message=chat.continue_final_message,
            tokenize=True,
            return_dict=False,
            **(chat.template_kwargs or {}),
        )
    except Exception as error:
        # A template is a program of the model's, or of the client's: it raises what it likes.
        raise RefusalError(
            f"{path}messages", f"the chat template does not take them: {error}"
        ) from error
    return list(ids)


def _messages(messages: Sequence[Mapping[str, Any]], path: str) -> list[dict[str, Any]]:
    """The messages with their content as one text each, or None where they have none."""
    return [
        _message(message, f"{path}messages.{number}") for number, message in enumerate(messages)
    ]


def _message(message: Any, field: str) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        raise RefusalError(field, "must be an object with a role and a content.")
    if not isinstance(message.get("role"), str):
        raise RefusalError(f"{field}.role", "must be a text.")
    content = message.get("content")
    if isinstance(content, list | tuple):
        parts = enumerate(content)
        content = "\n".join(_text(part, f"{field}.content.{number}") for number, part in parts)
    elif not isinstance(content, str | None):
        raise RefusalError(f"{field}.content", "must be a text, or a list of parts of text.")
    return {**message, "content": content}


def _text(part: Any, field: str) -> str:
    if isinstance(part, str):
        return part
    if isinstance(part, Mapping) and isinstance(part.get("text"), str):
        kind = part.get("type", "text")
        if kind in ("text", "input_text"):
            return str(part["text"])
    raise RefusalError(field, "only parts of text can be read with --backend transformers.")
