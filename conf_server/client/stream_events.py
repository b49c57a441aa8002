"""Server-sent events, as OpenAI's streams have them."""

from __future__ import annotations

from typing import Final

from conf_server.client.server_error import ServerError, json_object, not_ours
from conf_server.client.tokens import Json

_DATA: Final = "data:"
DONE: Final = "[DONE]"


def event_of(line: str, url: str) -> Json | None:
    """What a line of a stream says; None for one that says nothing, and for the last.

    Raises:
        ServerError: the stream says that it ends with an error, or is none.
    """
    if not line.startswith(_DATA):
        return None
    text = line.removeprefix(_DATA).strip()
    if text == DONE:
        return None
    event = json_object(text)
    if event is None:
        raise not_ours("not a stream of JSON objects", url)
    error = event.get("error")
    if isinstance(error, dict):
        code = error.get("code")
        raise ServerError(error, code if isinstance(code, int) else None, url)
    return event
