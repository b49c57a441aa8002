"""A line of the input, as it is sent, and the line of the output that answers it."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from conf_server.batch.endpoint import REPEATED, Endpoint, LineError
from conf_server.report.labels import LabelError, parse_label

USERS: Final[tuple[str, ...]] = ("id", "correct", "reference", "metadata")
"""Fields that belong to the user: the output repeats them, and the server does not get them."""

JUDGED: Final = ("correct", "reference")
"""Those that say whether an answer is right: the report reads their line."""

MOST_LINES: Final = 10**9
"""No file has as many lines: a larger number is a mistake."""


@dataclass(frozen=True)
class Record:
    """A line of the input that can be sent.

    Attributes:
        line: its number, counted from 1; empty lines count.
        path: where to post it, the path of the URL.
        payload: what to post, JSON.
        kept: the fields that its line of the output repeats.
        names_model: whether the request says which model is to answer.
        num_texts: how many texts a label has to be about: the completions to score, or one.
    """

    line: int
    path: str
    payload: bytes
    kept: dict[str, Any]
    names_model: bool
    num_texts: int

    @property
    def request(self) -> int:
        """64 bits of a digest of path and payload, never 0: an answer belongs to its request."""
        return digest(self.path.encode() + b"\n" + self.payload) or 1

    def check_label(self) -> None:
        """Refuse a label that the report could not use, before its answer is paid for.

        Raises:
            LineError: `correct` or `reference` is not what it has to be.
        """
        try:
            parse_label(self.kept, self.num_texts)
        except LabelError as error:
            raise LineError(str(error)) from error

    def answered(self, server: str, result: dict[str, Any]) -> Answered:
        """The line of the output that holds this answer."""
        return Answered(self.line, self.request, server, self.kept, result)


@dataclass(frozen=True)
class Answered:
    """A line of the output that holds an answer.

    Attributes:
        line: the number of the input's line.
        request: as of `Record`.
        server: what has answered, in words.
        kept: the fields that it repeats of the input's line.
        result: the server's answer.
    """

    line: int
    request: int
    server: str
    kept: dict[str, Any]
    result: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """The line, before it is written as JSON."""
        ours = {"line": self.line, "request": f"{self.request:016x}", "server": self.server}
        return {**ours, **self.kept, "result": self.result}


def parse_output(text: bytes) -> Answered | None:
    """A line that an earlier run has written; None for one that holds an error.

    Raises:
        ValueError, RecursionError: no run has written this line.
    """
    found = json.loads(text)
    if not isinstance(found, dict):
        raise ValueError("not a JSON object")
    kept = {name: found.pop(name) for name in (*USERS, *REPEATED) if name in found}
    line, result = found.get("line"), found.get("result")
    if type(line) is not int or not 1 <= line <= MOST_LINES:
        raise ValueError(f"{line!r} is no number of a line")
    if set(found) == {"line", "error"} and isinstance(found["error"], dict):
        return None
    if set(found) != {"line", "request", "server", "result"} or not isinstance(result, dict):
        raise ValueError("neither an answer nor an error")
    request, server = found["request"], found["server"]
    if not (isinstance(request, str) and re.fullmatch("[0-9a-f]{16}", request)):
        raise ValueError(f"{request!r} is no digest")
    if not isinstance(server, str):
        raise ValueError(f"{server!r} is no server")
    return Answered(line, int(request, 16), server, kept, result)


def digest(content: bytes) -> int:
    """64 bits of SHA-256."""
    return int.from_bytes(hashlib.sha256(content).digest()[:8], "big")


def parse_record(endpoint: Endpoint, line: int, text: bytes, defaults: Mapping[str, Any]) -> Record:
    """A line of the input, taken apart into what is sent and what is kept.

    Args:
        line: its number, counted from 1.
        defaults: fields of the endpoint's `filled` object where the line has none of that name.

    Raises:
        LineError: the line is not a JSON object (NaN and infinities are no JSON), or asks for
            many answers or a stream.
    """
    body = _json_object(text)
    kept = {name: body.pop(name) for name in USERS if name in body}
    if body.get("stream"):
        raise LineError("`stream`: one line has one answer")
    for name, instead in endpoint.refused.items():
        if name in body:
            raise LineError(f"`{name}`: {instead}")
    body = {**endpoint.rewritten(body), **endpoint.fields}
    if not kept.keys().isdisjoint(JUDGED):
        kept |= {name: body[name] for name in endpoint.repeated if name in body}
    if defaults:
        given = body.setdefault(endpoint.filled, {})
        if isinstance(given, dict):  # The server refuses anything else.
            body[endpoint.filled] = {**defaults, **given}
    completions = body.get("completions")
    return Record(
        line=line,
        path=endpoint.path,
        payload=json.dumps(body).encode(),
        kept=kept,
        names_model=bool(body.get("model")),
        num_texts=len(completions) if isinstance(completions, list) else 1,
    )


def _json_object(text: bytes) -> dict[str, Any]:
    try:
        body = json.loads(
            text.decode("utf-8-sig"), parse_constant=_refuse_constant, parse_float=_finite
        )
    except json.JSONDecodeError as error:
        raise LineError(f"not JSON: {error.msg}, character {error.pos + 1}") from error
    except (ValueError, RecursionError) as error:
        raise LineError(f"not JSON: {error}") from error
    if not isinstance(body, dict):
        raise LineError("not a JSON object")
    return body


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"{digits} is too large for a double")
    return number
