"""Text that no tokenizer can read is refused where it comes in."""

from __future__ import annotations

from typing import Any

from conf_server.refusal import RefusalError


def refuse_unencodable(value: Any, path: str) -> None:
    """Look for halves of surrogate pairs, which JSON can hold and UTF-8 cannot.

    Args:
        value: JSON, however deep.
        path: of its field.

    Raises:
        RefusalError: naming the first text in it that UTF-8 cannot hold, or the object
            that has such a name in it.
    """
    rest = [(path, value)]
    while rest:
        path, value = rest.pop()
        parts: Any = ()
        if isinstance(value, str):
            _check(value, path)
        elif isinstance(value, dict):
            for key in value:
                _check(str(key), path)
            parts = value.items()
        elif isinstance(value, list):
            parts = enumerate(value)
        deeper = [
            (f"{path}.{key}", part) for key, part in parts if isinstance(part, (str, dict, list))
        ]
        rest += reversed(deeper)


def _check(text: str, path: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        message = "it is no Unicode text, but has half of a surrogate pair in it."
        raise RefusalError(path, message) from None
