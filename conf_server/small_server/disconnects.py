"""Work that ends where its client leaves."""

from __future__ import annotations

import asyncio
from functools import wraps
from typing import Any, Final

from fastapi import Request
from fastapi.responses import Response

from conf_server.concurrency import cancel_all
from conf_server.serving.own_routes import Endpoint

CLIENT_LEFT: Final = 499
"""The status of a request whose client has left, as nginx counts it. Nobody receives it."""


def ends_with_client(endpoint: Endpoint) -> Endpoint:
    """An endpoint of FastAPI's whose parameters are `request` and `raw_request`.

    Its body has been read by then, so that all that a client can still send is that it has left.
    """

    @wraps(endpoint)
    async def watched(request: Any, raw_request: Request) -> Any:
        work = asyncio.ensure_future(endpoint(request=request, raw_request=raw_request))
        left = asyncio.create_task(_left(raw_request))
        try:
            await asyncio.wait({work, left}, return_when=asyncio.FIRST_COMPLETED)
            return work.result() if work.done() else Response(status_code=CLIENT_LEFT)
        finally:
            await cancel_all((work, left))

    return watched


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
