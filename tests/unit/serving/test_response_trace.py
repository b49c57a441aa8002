"""Which tokens the texts of a streamed response have, where it has other items beside them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from openai.types.responses import (
    ResponseContentPartDoneEvent,
    ResponseFunctionToolCall,
    ResponseOutputItemAddedEvent,
    ResponseOutputItemDoneEvent,
    ResponseOutputMessage,
    ResponseOutputText,
    ResponseReasoningItem,
    ResponseTextDeltaEvent,
)
from vllm.outputs import CompletionOutput, RequestOutput

from conf_server.engine.client.output_processor import SampleTrace
from conf_server.serving.confidence import Confidence, ConfidenceOptions
from conf_server.serving.response_trace import ResponseTrace, with_confidence
from conf_server.serving.responses_request import ConfidenceResponsesRequest
from conf_server.settings import ConfidenceSettings
from conf_server.stats.row_layout import RowLayout

PLACE: dict[str, Any] = {"item_id": "1", "output_index": 0, "content_index": 0}


def text_item(*parts: ResponseOutputText) -> ResponseOutputMessage:
    return ResponseOutputMessage(
        id="1", type="message", role="assistant", status="completed", content=list(parts)
    )


def added(item: Any) -> Any:
    return ResponseOutputItemAddedEvent(
        type="response.output_item.added", sequence_number=0, output_index=0, item=item
    )


def text(delta: str) -> Any:
    return ResponseTextDeltaEvent(
        type="response.output_text.delta", sequence_number=0, delta=delta, logprobs=[], **PLACE
    )


def closed() -> list[Any]:
    part = ResponseOutputText(type="output_text", text="x", annotations=[])
    return [
        ResponseContentPartDoneEvent(
            type="response.content_part.done", sequence_number=0, part=part, **PLACE
        ),
        ResponseOutputItemDoneEvent(
            type="response.output_item.done",
            sequence_number=0,
            output_index=0,
            item=text_item(part),
        ),
    ]


MESSAGE = added(text_item())
REASONING = added(ResponseReasoningItem(id="2", type="reasoning", summary=[]))
CALL = added(ResponseFunctionToolCall(type="function_call", call_id="3", name="f", arguments=""))
OTHER_DELTA = SimpleNamespace(type="response.reasoning_text.delta")


def traced() -> ResponseTrace:
    """Of a request whose answer's tokens are 0, 1, 2, ..."""
    request = ConfidenceResponsesRequest(input="Hi", stream=True)
    options = ConfidenceOptions(mode="summary", top_k=1)
    request.preset_confidence(Confidence.resolve(options, ConfidenceSettings(), 20, 100))
    return ResponseTrace(request, decode, as_token_ids=False, defaults=None)


def decode(rows: Sequence[Sequence[int]], context: Sequence[int] = ()) -> list[list[str]]:
    return [[str(token_id) for token_id in row] for row in rows]


async def streamed(steps: Sequence[tuple[int, Sequence[Any]]]) -> tuple[list[Any], ResponseTrace]:
    """All events of an answer.

    Args:
        steps: of the engine: how many tokens each brings, and vLLM's events of them.
    """
    rows, trace = SampleTrace(RowLayout(1)), traced()
    sums = np.cumsum([0, *(count for count, _ in steps)]).tolist()

    async def contexts() -> AsyncGenerator[Any, None]:
        for number, (count, _) in enumerate(steps):
            ids = np.arange(sums[number], sums[number] + count, dtype=np.int32)
            logprobs = np.full((count, 2), -0.5, np.float32)
            rows.trace.append(np.stack([ids, ids], 1), logprobs, np.ones(count, np.int32))
            reason = "stop" if number == len(steps) - 1 else None
            held: Any = rows
            output = CompletionOutput(0, "", ids.tolist(), None, held, finish_reason=reason)
            last = RequestOutput("1", None, [], None, [output], finished=reason is not None)
            yield SimpleNamespace(last_output=last)

    async def events() -> AsyncGenerator[Any, None]:
        followed = trace.follow(contexts())
        for _, of_step in steps:
            await anext(followed)
            for event in of_step:
                yield event

    return [event async for event in with_confidence(events(), trace)], trace


def shown(events: Sequence[Any]) -> list[str]:
    """The tokens of each text delta."""
    return [
        "".join(entry.token for entry in event.logprobs)
        for event in events
        if isinstance(event, ResponseTextDeltaEvent)
    ]


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        # A step without text of its own stands with the next one.
        ([(1, [MESSAGE, text("a")]), (1, []), (2, [text("b")])], ["0", "123"]),
        # Reasoning, its end mark, and then the text.
        (
            [(1, [REASONING, OTHER_DELTA]), (1, [OTHER_DELTA]), (1, []), (1, [MESSAGE, text("a")])],
            ["3"],
        ),
        # One step ends the reasoning and begins the text: vLLM does not tell whose tokens it has.
        ([(2, [REASONING, OTHER_DELTA]), (2, [OTHER_DELTA, MESSAGE, text("a")])], ["23"]),
    ],
)
async def test_a_delta_has_the_tokens_of_its_text(steps: Any, expected: list[str]) -> None:
    events, _ = await streamed(steps)
    assert shown(events) == expected


async def test_a_text_before_a_call_has_no_summary_of_the_whole() -> None:
    steps = [(1, [MESSAGE, text("a")]), (2, [text("b"), *closed(), CALL]), (1, [])]
    events, trace = await streamed(steps)
    (done,) = [event for event in events if isinstance(event, ResponseContentPartDoneEvent)]
    assert [entry.token for entry in done.part.logprobs] == ["0", "1", "2"]
    (item,) = [event.item for event in events if isinstance(event, ResponseOutputItemDoneEvent)]
    response: Any = SimpleNamespace(output=[item, CALL.item])
    trace.complete(response)
    assert response.confidence_summary["mean_confidence"] == 0.5
    assert not hasattr(done.part, "confidence_summary")
    assert len(done.part.logprobs) == 3


async def test_a_text_alone_ends_with_all_tokens_and_the_summary() -> None:
    """Though its last events come before vLLM makes the whole answer."""
    events, trace = await streamed([(1, [MESSAGE, text("a")]), (1, closed())])
    item = next(event.item for event in events if isinstance(event, ResponseOutputItemDoneEvent))
    # vLLM 0.31 makes the text of the whole answer once more.
    (again,) = text_item(ResponseOutputText(type="output_text", text="x", annotations=[])).content
    response: Any = SimpleNamespace(output=[text_item(again)])
    trace.complete(response)
    for part in (item.content[0], response.output[0].content[0]):
        assert [entry.token for entry in part.logprobs] == ["0", "1"]
        assert part.confidence_summary == response.confidence_summary


async def test_the_last_events_of_a_text_wait_for_what_follows() -> None:
    order: list[str] = []

    async def events() -> AsyncGenerator[Any, None]:
        for event in [*closed(), SimpleNamespace(type="response.completed")]:
            order.append(f"made {event.type}")
            yield event

    async for event in with_confidence(events(), traced()):
        order.append(f"sent {event.type}")
    kinds = ["content_part.done", "output_item.done", "completed"]
    assert order == [f"{what} response.{kind}" for what in ("made", "sent") for kind in kinds]
