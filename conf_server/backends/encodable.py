"""What cannot travel to the engine is refused where it comes in: text that is no Unicode, and
numbers of more than 64 bits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import msgspec

from conf_server.refusal import RefusalError

_UNENCODABLE: Final = (UnicodeEncodeError, OverflowError, RecursionError, TypeError)
_LEAST: Final = -(2**63)
_MOST: Final = 2**64 - 1
_SCHEMAS: Final = frozenset({"tools", "response_format", "structured_outputs", "text"})
"""Fields that may hold a JSON Schema. It travels as text, so that its numbers may have any size."""


def refuse_unencodable(value: Any, path: str) -> None:
    """Look for halves of surrogate pairs, which JSON can hold and UTF-8 cannot, and for integers
    that 64 bits cannot hold.

    Args:
        value: JSON, however deep.
        path: of its field.

    Raises:
        RefusalError: naming the first value in it that cannot be encoded, or the object
            that has such a name in it.
    """
    try:
        msgspec.msgpack.encode(value)  # says yes to nearly all requests, within milliseconds
    except _UNENCODABLE:
        _refuse_part(value, path)


def _refuse_part(value: Any, path: str) -> None:
    """Look at each part by itself.

    No path is made of parts that can be encoded: the paths of a long value's parts would be many
    times its size.
    """
    any_size = path in _SCHEMAS
    names: list[str] = []
    rest: list[Iterator[tuple[Any, Any]]] = [iter([(path, value)])]
    while rest:
        for name, part in rest[-1]:
            if problem := _problem(part, any_size):
                raise RefusalError(".".join([*names, str(name)]), problem)
            if isinstance(part, (dict, list)):
                names.append(str(name))
                rest.append(iter(part.items() if isinstance(part, dict) else enumerate(part)))
                break
        else:
            rest.pop()
            if rest:
                names.pop()


def _problem(part: Any, any_size: bool) -> str | None:
    """Why a value, or a name in an object, cannot be encoded; None where it can."""
    if isinstance(part, int):
        too_large = not any_size and not _LEAST <= part <= _MOST
        return "it must fit into 64 bits." if too_large else None
    texts = part if isinstance(part, dict) else (part,) if isinstance(part, str) else ()
    if all(map(_is_unicode, map(str, texts))):
        return None
    return "it is no Unicode text, but has half of a surrogate pair in it."


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
