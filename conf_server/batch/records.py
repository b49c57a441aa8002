"""A line of the input: what is sent, what is kept; and the line of the output that answers it."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from conf_server.batch.options import SCORE, Endpoint

KEPT: Final = ("id", "correct", "reference", "metadata")
"""Fields that go to the output untouched, and not to the server."""

SCORED: Final = ("completion", "completions")
"""Kept beside a `reference` in scores: the answer does not repeat what was scored."""

MOST_LINES: Final = 10**9
"""No file has as many: a larger number is a mistake."""


class LineError(ValueError):
    """A line that cannot be sent. The message says why."""


@dataclass(frozen=True)
class Record:
    """A line of the input that can be sent.

    Attributes:
        line: its number, counted from 1; empty lines count.
        path: where to post, of the URL.
        payload: what to post, JSON.
        kept: what its line of the output repeats.
        names_model: whether the request says which model is to answer.
    """

    line: int
    path: str
    payload: bytes
    kept: dict[str, Any]
    names_model: bool

    @property
    def request(self) -> int:
        """Digest of path and payload, never 0: whether an answer still belongs to its line."""
        return digest(self.path.encode() + b"\n" + self.payload) or 1

    def answered(self, server: str, result: dict[str, Any]) -> Answered:
        return Answered(self.line, self.request, server, self.kept, result)


@dataclass(frozen=True)
class Answered:
    """A line of the output that holds an answer.

    Attributes:
        line: number of the input's line.
        request: see `Record`.
        server: what has answered, in words.
        kept: what it repeats of the input's line.
        result: the server's answer.
    """

    line: int
    request: int
    server: str
    kept: dict[str, Any]
    result: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        ours = {"line": self.line, "request": f"{self.request:016x}", "server": self.server}
        return {**ours, **self.kept, "result": self.result}


def parse_output(text: bytes) -> Answered | None:
    """A line of an earlier run; None where it failed.

    Raises:
        ValueError, RecursionError: it has not the shape of our lines.
    """
    found = json.loads(text)
    if not isinstance(found, dict):
        raise ValueError("not a JSON object")
    kept = {name: found.pop(name) for name in (*KEPT, *SCORED) if name in found}
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


def kept_digest(kept: Mapping[str, Any]) -> int:
    """Of what a line has for the output."""
    return digest(json.dumps(kept).encode())


def kept_fields(kept: Mapping[str, Any]) -> int:
    """Which of `KEPT` a line has: bit n for the n-th."""
    return sum(1 << place for place, name in enumerate(KEPT) if name in kept)


def parse_record(endpoint: Endpoint, line: int, text: bytes, defaults: Mapping[str, Any]) -> Record:
    """
    Args:
        defaults: fields of `uncertainty` where the line has none of that name.

    Raises:
        LineError: not JSON (NaN and infinities are not), not an object, many requests, or a stream.
    """
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
    kept = {name: body.pop(name) for name in KEPT if name in body}
    if body.get("stream"):
        raise LineError("`stream`: one line has one answer")
    if endpoint is SCORE:
        if "items" in body:
            raise LineError("`items`: put each item on a line of its own")
        if "reference" in kept:
            kept |= {name: body[name] for name in SCORED if name in body}
    if defaults:
        given = body.setdefault("uncertainty", {})
        if isinstance(given, dict):  # the server refuses anything else
            body["uncertainty"] = {**defaults, **given}
    payload = json.dumps(body).encode()
    return Record(line, endpoint.path, payload, kept, bool(body.get("model")))


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"{digits} is too large for a double")
    return number
