"""What requests for teacher forcing share: items of a context and texts after it, one or many."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Final

from pydantic import BaseModel, ConfigDict, Field

from conf_server.backends.base import ForcingItem, Plain, Prompt
from conf_server.refusal import RefusalError
from conf_server.serving.fields import Priority, RequestId
from conf_server.serving.given_texts import (
    GivenCompletion,
    Messages,
    Text,
    TokenIds,
    chat_of,
    check_given,
    completion_of,
)

_OF_CHATS: Final = frozenset(
    {
        *("chat_template", "chat_template_kwargs"),
        *("add_generation_prompt", "continue_final_message"),
    }
)
"""Fields that say how a chat is rendered."""


class ForcedItem(BaseModel):
    """A context, and the completion or completions after it."""

    model_config = ConfigDict(extra="forbid")

    needs_completion: ClassVar[bool] = True
    """Without one, the context is a text on its own, where the route allows that."""

    prompt: Text | TokenIds | None = Field(
        default=None, description="Context as text or token ids; may be empty before a completion."
    )
    messages: Messages | None = Field(
        default=None, description="Context as a chat, rendered with the model's template."
    )
    completion: GivenCompletion | None = Field(
        default=None, description="What stands after it, as text, token ids or an object."
    )
    completions: list[GivenCompletion] | None = Field(
        default=None, description="Several completions of the same context."
    )
    add_special_tokens: bool = Field(
        default=True, description="Add the tokenizer's special tokens (BOS) to a text prompt."
    )
    chat_template: str | None = Field(
        default=None,
        description="Instead of the model's own; the server needs --trust-request-chat-template.",
    )
    chat_template_kwargs: dict[str, Any] | None = Field(
        default=None, description="Further arguments of the chat template."
    )

    add_generation_prompt: bool | None = Field(
        default=None, description="Whether the chat's prompt ends where an answer begins."
    )
    continue_final_message: bool | None = Field(
        default=None, description="Leave the last message open: the completion goes on with it."
    )

    def texts(self) -> list[GivenCompletion]:
        """The completions, however they were given."""
        return [self.completion] if self.completion is not None else list(self.completions or ())

    def text_paths(self, path: str) -> list[str]:
        """The fields they came from, with `path` before them."""
        if self.completion is not None:
            return [f"{path}completion"]
        return [f"{path}completions.{number}" for number in range(len(self.completions or ()))]

    def forcing_item(self, path: str) -> ForcingItem:
        """The same as plain data, for layers that know no HTTP.

        Raises:
            RefusalError: fields of the chat contradict each other.
        """
        context: Prompt
        if self.messages is not None:
            names = _OF_CHATS & self.model_fields_set
            context = chat_of(self.messages, {name: getattr(self, name) for name in names}, path)
        else:
            content = self.prompt if isinstance(self.prompt, str) else tuple(self.prompt or ())
            context = Plain(content, self.add_special_tokens)
        completions = tuple(map(completion_of, self.texts()))
        return ForcingItem(context, completions, path, tuple(self.text_paths(path)))

    def check_item(self, path: str) -> None:
        """
        Raises:
            RefusalError: a field is missing, empty, or has no place beside another.
        """
        hint = " (an empty prompt scores a text on its own)" if self.needs_completion else ""
        self._check_one_of("prompt", "messages", path, hint)
        if self.needs_completion or self.completion is not None:
            self._check_one_of("completion", "completions", path)
        for name in ("messages", "completions"):
            value = getattr(self, name)
            if value is not None and not value:
                raise RefusalError(f"{path}{name}", "it must not be empty.")
        if self.messages is None:
            for name in sorted(_OF_CHATS):
                if getattr(self, name) is not None:
                    raise RefusalError(f"{path}{name}", "it has a place beside `messages` only.")
        for text, field in zip(self.texts(), self.text_paths(path), strict=True):
            check_given(text, field)

    def _check_one_of(self, first: str, second: str, path: str, hint: str = "") -> None:
        if (getattr(self, first) is None) == (getattr(self, second) is None):
            raise RefusalError(f"{path}{first}", f"give either `{first}` or `{second}`{hint}.")


class ForcedRequest(ForcedItem):
    """One item, or many under `items`, and for whom the engine works on them."""

    items: Sequence[ForcedItem] | None = Field(default=None, description="Many items at once.")
    model: str | None = Field(default=None, description="Served model or LoRA adapter.")
    cache_salt: str | None = Field(
        default=None, min_length=1, description="Keeps this request's prefix cache to itself."
    )
    priority: Priority = 0
    request_id: RequestId

    def each_item(self) -> Iterator[tuple[str, ForcedItem]]:
        """Items with the path of their fields, for error messages."""
        if self.items is None:
            yield "", self
        for index, item in enumerate(self.items or ()):
            yield f"items.{index}.", item

    def check_items(self) -> None:
        """
        Raises:
            RefusalError: an item is wrong, or stands beside `items`.
        """
        own = {"prompt", "messages", "completion", "completions"} | _OF_CHATS
        given = sorted(name for name in own if getattr(self, name) is not None)
        if self.items is not None and given:
            raise RefusalError(given[0], "it stands beside `items`; put it into each item.")
        if self.items is not None and not self.items:
            raise RefusalError("items", "it must not be empty.")
        for path, item in self.each_item():
            item.check_item(path)

    def check_count(self, limit: int) -> None:
        """
        Args:
            limit: most texts a request (`--max-score-items`).

        Raises:
            RefusalError: there are more of them.
        """
        count = sum(max(1, len(item.texts())) for _, item in self.each_item())
        if count > limit:
            name = "completions" if self.items is None else "items"
            raise RefusalError(
                name, f"{count} texts, at most {limit} a request (--max-score-items)."
            )
