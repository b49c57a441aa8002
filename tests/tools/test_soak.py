"""benchmarks.soak: slopes, what is sent, and what is said about it. No vLLM."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from benchmarks.memory import MB, Memory, growth, slope
from benchmarks.servers import ServerError
from benchmarks.soak import SAME, Soak, arguments, table
from benchmarks.soak_requests import KINDS, STOCK_KINDS, Request, requests


def memory(requests: int, uss_mb: float) -> Memory:
    size = int(uss_mb * MB)
    return Memory("worker", requests, requests / 2, size, size, size)


def test_a_jump_and_a_peak_move_no_slope() -> None:
    x = list(range(100))
    y = [2.0 * value + (50 if value > 90 else 0) for value in x]
    y[30] = 1e6
    assert slope(x, y) == pytest.approx(2, rel=0.05)
    assert slope([1, 1], [3, 4]) != slope([1, 1], [3, 4])  # NaN: no two points differ


def test_growth_that_ends() -> None:
    samples = [memory(n, 1000 + min(n, 400) / 4) for n in range(0, 1001, 20)]
    found = growth(samples)["worker"]
    assert found.first_half == pytest.approx(250, rel=0.02)
    assert found.second_half == found.per_minute == found.added == 0
    assert found.is_level


def test_growth_that_does_not_end() -> None:
    found = growth([memory(n, 1000 + n / 10) for n in range(0, 1001, 20)])["worker"]
    assert found.second_half == pytest.approx(100)
    assert found.per_minute == pytest.approx(12)  # two requests a second
    assert found.added == pytest.approx(50)
    assert not found.is_level


def test_the_same_requests_for_stock_and_ours() -> None:
    both = (itertools.islice(requests(STOCK_KINDS, seed=3), 100) for _ in range(2))
    for one, other in zip(*both, strict=True):
        assert one == other
        assert not {"confidence", "uncertainty", "completions"} & json.loads(one.body).keys()


def test_every_kind_comes_as_often() -> None:
    drawn = [request.kind for request in itertools.islice(requests(list(KINDS)), 3 * len(KINDS))]
    assert all(drawn.count(kind) == 3 for kind in KINDS)


@pytest.mark.parametrize(
    "argv", [["--kinds", "chat,chta"], ["--minutes", "0"], ["--only", "old"], ["--turn", "0"]]
)
def test_wrong_arguments_are_refused(argv: list[str]) -> None:
    with pytest.raises(SystemExit):
        arguments(argv)


async def soak_a_stand_in(load: list[Request]) -> Soak:
    async def answer(request: web.Request) -> web.Response:
        body = await request.json()
        await asyncio.sleep(body["seconds"])
        return web.json_response({}, status=body["status"])

    app = web.Application()
    app.router.add_post("/", answer)
    async with TestServer(app) as stand_in:
        server: Any = SimpleNamespace(
            url=str(stand_in.make_url("")),
            processes={"api": [os.getpid()], "worker": []},
            log_tail=lambda: "the log's end",
        )
        soak = Soak(SAME, server, iter(load))
        soak.sample(0.0)
        await soak.turn(len(load), concurrency=3)
        return soak


def request(seconds: float = 0.0, status: int = 200, leaves: float | None = None) -> Request:
    body = json.dumps({"seconds": seconds, "status": status}).encode()
    return Request("chat", "/", body, leaves)


def test_a_turn_counts_those_who_left_and_samples_what_has_processes() -> None:
    soak = asyncio.run(soak_a_stand_in([*[request()] * 7, request(60, leaves=0.01)]))
    assert soak.answered == {"chat": 7}
    assert [sample.requests for sample in soak.samples] == [0, 8]
    assert all(sample.rss >= sample.pss >= sample.uss > 0 for sample in soak.samples)
    assert "conf-server, the same requests | api |" in table([soak])


def test_a_refused_request_ends_the_soak() -> None:
    with pytest.raises(ServerError, match=r"chat: 400.*\n*the log's end"):
        asyncio.run(soak_a_stand_in([request(), request(status=400)]))
