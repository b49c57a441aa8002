"""`python -m tests.unit.small_server.dummy_server FLAGS`: the small server of a made-up model."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncGenerator, Mapping
from typing import Any

from conf_server.backends.base import Ask, Caller
from conf_server.backends.dummy import DummyBackend
from conf_server.backends.streaming import Piece
from conf_server.small_server.server_options import parse_options
from conf_server.small_server.small_start import run
from conf_server.stats.early_stop import EarlyStop
from conf_server.stats.forced import WantedRows


class SlowBackend(DummyBackend):
    """Takes a tenth of a second for a word, and as many words as the prompt says."""

    tokenizer: Any = None

    async def stream(
        self,
        ask: Ask,
        wanted: WantedRows,
        caller: Caller,
        early_stop: EarlyStop | None = None,
    ) -> AsyncGenerator[Piece, None]:
        async for piece in super().stream(ask, wanted, caller, early_stop):
            await asyncio.sleep(0.1)
            yield piece

    def close(self) -> None:
        print("closed", file=sys.stderr)


def load(loading: Mapping[str, Any]) -> SlowBackend:
    return SlowBackend(lambda prompt, number: "word " * int(prompt))


if __name__ == "__main__":
    run(parse_options(sys.argv[1:], os.environ), load)
