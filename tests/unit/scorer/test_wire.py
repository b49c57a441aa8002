"""Messages arrive as they were sent; what is no message is said to be none."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import msgspec
import numpy as np
import pytest

from conf_server.backends.base import Chat, Completion, ForcingItem, Plain
from conf_server.refusal import RefusalError, TooLongError
from conf_server.scorer import wire
from conf_server.stats.forced import ForcedAttention, ForcedRows, ForcedStates
from conf_server.stats.trace import TraceRows

CHAT = Chat(({"role": "user", "content": [{"type": "text", "text": "Hi"}]},), "a template")


async def sent(message: Any, decoder: wire.Decoder) -> Any:
    reader = asyncio.StreamReader()
    reader.feed_data(wire.frame(message))
    return await decoder.read(reader)


@pytest.mark.parametrize("context", [CHAT, Plain((1, 2)), Plain("Hi", add_special_tokens=False)])
async def test_texts_travel(context: Chat | Plain) -> None:
    given = (Completion((1, 2)), Completion("there", finished=True))
    item = ForcingItem(context, given, "items.0.", ("a", "b"), (3, 4))
    asked = await sent(wire.AskPrepare(7, [wire.WireItem.of(item)]), wire.FROM_CLIENT)
    assert asked.number == 7
    assert [wired.item() for wired in asked.items] == [item]


async def test_rows_travel_with_their_arrays() -> None:
    ids = np.arange(6, dtype=np.int32).reshape(2, 3)
    logprobs = -np.arange(8, dtype=np.float32).reshape(2, 4)[:, :3]  # not contiguous
    rows = TraceRows(ids, logprobs, ids[:, 0])
    answer = await sent(wire.Rows(0, [ForcedRows(rows, 5)]), wire.TO_CLIENT)
    (forced,) = answer.result
    assert forced.num_cached == 5
    np.testing.assert_array_equal(forced.rows.named_ids, ids)
    np.testing.assert_array_equal(forced.rows.named_logprobs, logprobs)
    np.testing.assert_array_equal(forced.rows.ranks, [0, 3])
    assert forced.rows.named_logprobs.dtype == np.float32
    assert forced.rows.statistics is None


async def test_states_travel_with_the_weights_that_are_wanted() -> None:
    weights = np.random.default_rng(0).random((1, 2, 3, 4), np.float32)
    states = ForcedStates(np.empty((0, 0, 0), np.float32), 0, ForcedAttention(weights))
    (found,) = (await sent(wire.States(0, [states]), wire.TO_CLIENT)).result
    assert found.states.shape == (0, 0, 0)
    assert found.attention is not None
    np.testing.assert_array_equal(found.attention.weights, weights)
    assert found.attention.last is None


@pytest.mark.parametrize(
    "error",
    [
        RefusalError("items.3", "is wrong.", [1], status=503, kind="ServiceUnavailableError"),
        TooLongError("prompt", "too long."),
        RefusalError(None, "nothing goes."),
    ],
)
async def test_refusals_travel_whole(error: RefusalError) -> None:
    found = (await sent(wire.Refused.of(0, error), wire.TO_CLIENT)).error()
    assert type(found) is type(error)
    assert (str(found), vars(found)) == (str(error), vars(error))


def body_of(*parts: bytes) -> bytes:
    body = b"".join(parts)
    return len(body).to_bytes(4, "big") + body


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        ((2**31).to_bytes(4, "big"), "a frame of 2147483648 bytes, at most 1073741824"),
        (body_of(b"\xc1"), "cannot be read"),
        (body_of(b"\x92", b"\xa5Hello", b"\x00"), "cannot be read"),
        (wire.frame(wire.Cancel(0)), "cannot be read"),  # nothing that a client is told
    ],
)
async def test_what_is_no_message_is_an_error(frame: bytes, message: str) -> None:
    reader = asyncio.StreamReader()
    reader.feed_data(frame)
    with pytest.raises(wire.WireError, match=message):
        await wire.TO_CLIENT.read(reader)


def labels_with(dtype: str, shape: tuple[int, ...], data: bytes) -> bytes:
    fields = {"logprobs": (dtype, shape, data), "num_tokens": 1, "num_cached": 0}
    return body_of(msgspec.msgpack.encode(("Labels", 0, fields)))


async def test_an_array_has_to_be_one() -> None:
    async def logprobs(*array: Any) -> Any:
        reader = asyncio.StreamReader()
        reader.feed_data(labels_with(*array))
        return (await wire.TO_CLIENT.read(reader)).result.logprobs

    assert await logprobs("<f4", (1,), bytes(4)) == [0]
    for array in (("|O", (1,), bytes(8)), ("<f4", (2,), bytes(4)), ("<f4", (-1,), bytes(4))):
        with pytest.raises(wire.WireError):
            await logprobs(*array)


async def test_the_end_of_a_connection_is_no_message() -> None:
    reader = asyncio.StreamReader()
    reader.feed_data(wire.frame(wire.Cancel(0))[:-1])
    reader.feed_eof()
    assert await wire.FROM_CLIENT.read(reader) is None


def test_a_socket_that_blocks_is_read_alike() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(wire.frame(wire.Cancel(3)))
        ours.close()
        assert wire.FROM_CLIENT.receive(theirs) == wire.Cancel(3)
        assert wire.FROM_CLIENT.receive(theirs) is None


def test_too_large_a_message_is_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "MAX_FRAME", 100)
    with pytest.raises(wire.FrameTooLargeError, match="at most 100"):
        wire.frame(wire.NotLoaded("x" * 100))
