"""A line of the input: what is sent, what is kept; and the line of the output that answers it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from conf_server.batch.options import SCORE, Endpoint

KEPT: Final = ("id", "correct", "reference", "metadata")
"""Fields that go to the output untouched, and not to the server."""

SCORED: Final = ("completion", "completions")
"""Kept beside a `reference` in scores: the answer does not repeat what was scored."""


class LineError(ValueError):
    """A line that cannot be sent. The message says why."""


@dataclass(frozen=True)
class Record:
    """A line of the input that can be sent.

    Attributes:
        line: its number, counted from 1; empty lines count.
        payload: what to post, JSON.
        kept: what its line of the output repeats.
    """

    line: int
    payload: bytes
    kept: dict[str, Any]

    @property
    def digest(self) -> int:
        """Of the payload, 64 bits, never 0: whether an answer still belongs to its line."""
        return int.from_bytes(hashlib.sha256(self.payload).digest()[:8], "big") or 1

    def answered(self, result: Mapping[str, Any]) -> dict[str, Any]:
        """The line of the output."""
        return {
            "line": self.line,
            "request": f"{self.digest:016x}",
            **self.kept,
            "result": result,
        }


def parse_record(endpoint: Endpoint, line: int, text: bytes, defaults: Mapping[str, Any]) -> Record:
    """
    Args:
        defaults: fields of `uncertainty` where the line has none of that name.

    Raises:
        LineError: not JSON (NaN and infinities are not), not an object, many requests, or a stream.
    """
    try:
        body = json.loads(text.decode("utf-8-sig"), parse_constant=_refuse_constant)
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
    return Record(line, json.dumps(body).encode(), kept)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")
