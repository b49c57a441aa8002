"""Text that takes the place of placeholders in answers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator

import pytest
from fastapi.responses import JSONResponse, StreamingResponse

from conf_server.serving.logprobs_encoder import LogprobsEncoder
from conf_server.serving.splices import Splices


def held(splices: Splices, text: bytes) -> dict[str, object]:
    return {"content": [], splices.hold('"content":[],"*":0', [b'"content":', text]): 0, "more": 1}


def test_a_response_is_filled_and_has_the_right_length() -> None:
    splices = Splices(LogprobsEncoder())
    choices = [held(splices, b'["\xe2\x82\xac"]'), {"text": "content"}, held(splices, b"[2]")]
    response = asyncio.run(splices.fill_response(JSONResponse({"choices": choices})))
    assert json.loads(response.body) == {
        "choices": [{"content": ["€"], "more": 1}, {"text": "content"}, {"content": [2], "more": 1}]
    }
    assert response.headers["content-length"] == str(len(response.body))


def test_each_chunk_of_a_stream_is_filled_when_it_comes() -> None:
    splices = Splices(LogprobsEncoder())

    async def chunks() -> AsyncIterator[str]:
        yield "data: role\n\n"
        yield f"data: {json.dumps(held(splices, b'[1]'), separators=(',', ':'))}\n\n"
        held(splices, b"[of a chunk that is never sent]")
        yield f"data: {json.dumps(held(splices, b'[2]'), separators=(',', ':'))}\n\n"
        yield "data: [DONE]\n\n"

    async def sent() -> list[str | bytes]:
        response = await splices.fill_response(StreamingResponse(chunks()))
        return [chunk async for chunk in response.body_iterator]

    chunks_sent = [c if isinstance(c, bytes) else c.encode() for c in asyncio.run(sent())]
    assert chunks_sent == [
        b"data: role\n\n",
        b'data: {"content":[1],"more":1}\n\n',
        b'data: {"content":[2],"more":1}\n\n',
        b"data: [DONE]\n\n",
    ]


def test_a_stream_that_is_closed_closes_what_it_was_made_of() -> None:
    closed = []

    async def chunks() -> AsyncIterator[str]:
        try:
            yield "data: 1\n\n"
            yield "data: 2\n\n"
        finally:
            closed.append(True)

    async def leave() -> None:
        splices = Splices(LogprobsEncoder())
        stream = (await splices.fill_response(StreamingResponse(chunks()))).body_iterator
        await anext(stream)
        await stream.aclose()

    asyncio.run(leave())
    assert closed == [True]


async def test_an_answer_without_placeholders_is_left_alone() -> None:
    response = JSONResponse({"content": []})
    assert await Splices(LogprobsEncoder()).fill_response(response) is response
    assert await Splices(LogprobsEncoder()).fill_response(None) is None


async def test_others_have_their_turn_while_a_large_answer_is_written() -> None:
    splices, turns, seen = Splices(LogprobsEncoder()), 0, []

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    def pieces() -> Iterator[bytes]:
        yield b'"content":["'
        for _ in range(8):
            seen.append(turns)
            yield b"a" * 200_000
        yield b'"]'

    answer = {splices.hold('"*":0', pieces()): 0}
    beside = asyncio.create_task(other())
    response = await splices.fill_response(JSONResponse(answer))
    beside.cancel()
    assert json.loads(response.body) == {"content": ["a" * 1_600_000]}
    assert len(set(seen)) == 4


async def test_a_placeholder_of_another_form_is_an_error_and_never_sent() -> None:
    splices = Splices(LogprobsEncoder())
    with pytest.raises(RuntimeError, match="placeholder"):
        await splices.fill(json.dumps(held(splices, b"[1]")).encode())  # with blanks
