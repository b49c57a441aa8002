"""Answers that stand in a JSON object: `extract: json`.

The last object of a text that parses and has the key counts. An object inside another is not
looked at by itself, unless the outer one does not parse. A text without one has no answer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any, Final, NoReturn

from conf_server.refusal import RefusalError

FIELD: Final = "think.answer.key"
LONGEST_KEY: Final = 200
"""Characters."""
MOST_IN_VAIN: Final = 1 << 20
"""Characters of what begins as an object and is none, all attempts together. Text that is made for
it would be read again from each of its braces; after so much the rest has no answer."""

_BEGINNING: Final = re.compile(r'\{(?=\s*["}])')
_ESCAPE: Final = re.compile(r"~(?![01])")
_ABSENT: Final = object()


def json_finder(key: str) -> Callable[[str, int], str | None]:
    """What finds, from a place of a text on, the value of a key in the last object that has it.

    A string is the answer itself. Anything else is written as JSON with sorted keys and no blanks,
    in which 1.50 is 1.5. `null` is no answer.

    Args:
        key: a name in the object; where it begins with a slash, a JSON Pointer (RFC 6901).

    Raises:
        RefusalError: it is empty, too long, or no pointer.
    """
    if not key or len(key) > LONGEST_KEY:
        raise RefusalError(FIELD, f"it has 1 to {LONGEST_KEY} characters")
    path = [key]
    if key.startswith("/"):
        if _ESCAPE.search(key):
            raise RefusalError(FIELD, "in a JSON Pointer, ~0 stands for ~ and ~1 for /")
        path = [part.replace("~1", "/").replace("~0", "~") for part in key.split("/")[1:]]

    def find(text: str, start: int) -> str | None:
        answer = None
        for value in _objects(text, start):
            held = _held(value, path)
            if held is not _ABSENT:
                answer = _written(held)
        return answer

    return find


def _objects(text: str, place: int) -> Iterator[Any]:
    """The outermost objects that parse, from a place on, in order."""
    in_vain = 0
    while in_vain < MOST_IN_VAIN and (brace := _BEGINNING.search(text, place)):
        place = brace.start()
        try:
            value, place = _DECODER.raw_decode(text, place)
            yield value
        except json.JSONDecodeError as error:
            in_vain += error.pos - place + 1
            place += 1
        except (ValueError, RecursionError):  # a number that Python or this module does not read
            in_vain += len(text) - place
            place += 1


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_DECODER: Final = json.JSONDecoder(parse_constant=_no_number)


def _held(value: Any, path: list[str]) -> Any:
    for part in path:
        if isinstance(value, dict):
            value = value.get(part, _ABSENT)
        elif isinstance(value, list) and re.fullmatch("0|[1-9][0-9]{0,5}", part):
            value = value[int(part)] if int(part) < len(value) else _ABSENT
        else:
            return _ABSENT
    return value


def _written(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    try:
        return json.dumps(
            value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
        )
    except (ValueError, RecursionError):  # 1e999, which JSON can hold and Python cannot
        return None
