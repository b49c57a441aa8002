"""Answers of this server's own handlers, without an engine behind them."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from vllm.entrypoints.serve import create_error_response

from conf_server.backends.base import Ask, Caller, Chat
from conf_server.backends.served import ServedBackend
from conf_server.refusal import RefusalError
from conf_server.stats.forced import WantedRows

ASK = Ask(Chat(({"role": "user", "content": "Hi"},)))


def backend(create_chat_completion: Any) -> ServedBackend:
    made = ServedBackend.__new__(ServedBackend)
    handler: Any = SimpleNamespace(create_chat_completion=create_chat_completion)
    made._chat = handler
    return made


async def generate(create_chat_completion: Any) -> Any:
    wanted = WantedRows(1, 0, statistics=False)
    return await backend(create_chat_completion).generate(ASK, wanted, Caller("name"))


async def test_a_cancellation_that_vllm_has_answered_is_one_still() -> None:
    """Else a client that has left is a failure that nobody asks for, and a traceback in the log."""
    begun = asyncio.Event()

    async def answers_cancellation(*_: Any) -> Any:
        begun.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            return create_error_response("Client disconnected")

    task = asyncio.create_task(generate(answers_cancellation))
    await begun.wait()
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()


async def test_an_error_answer_is_a_refusal() -> None:
    async def refuses(*_: Any) -> Any:
        return create_error_response("No.", param="messages")

    with pytest.raises(RefusalError, match="No") as refused:
        await generate(refuses)
    assert refused.value.field == "messages"
