"""Answers piece by piece, for a server that sends them while they are made."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Protocol

from conf_server.backends.base import Ask, Backend, Caller
from conf_server.stats.early_stop import EarlyStop
from conf_server.stats.forced import WantedRows
from conf_server.stats.trace import TraceRows


@dataclass(frozen=True)
class Piece:
    """What has come of one answer since its last piece.

    The pieces of an answer, joined, are the `Answer` that `generate` would have given: its text,
    its rows, and the reason of its last piece.

    Attributes:
        index: number of the answer, from 0 to `Ask.n` - 1.
        text: that a client may see by now. It can be empty although there are rows: the end of a
            character, or of what may be a stop string, is still to come. It can also hold the text
            of tokens whose rows came with an earlier piece.
        rows: one row for each new token, the end token included; there may be none.
        finish_reason: "stop" or "length" in the answer's last piece, None before it.
        stop_reason: what ended the answer as vLLM says it: the stop string, or the token id of
            `stop_token_ids`, or `STOP_REASON`; None for the model's own end token and for "length".
    """

    index: int
    text: str
    rows: TraceRows
    finish_reason: str | None = None
    stop_reason: str | int | None = None


class StreamingBackend(Backend, Protocol):
    """A backend that can hand out an answer while it is made."""

    def stream(
        self,
        ask: Ask,
        wanted: WantedRows,
        caller: Caller,
        early_stop: EarlyStop | None = None,
    ) -> AsyncGenerator[Piece, None]:
        """Answer a prompt; pieces of several answers come interleaved, as they are made.

        What `check` would refuse is raised before the first piece. Closing the generator, or
        cancelling who waits for it, ends the work.

        Args:
            early_stop: when an answer is ended; its rows are to have statistics then.

        Raises:
            RefusalError, TooLongError: as `Backend.generate`. With status 503 also between pieces:
                the device has no memory left for as much as one answer.
        """
        ...
