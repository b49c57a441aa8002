"""POST /v1/chat/completions and /v1/completions."""

from __future__ import annotations

from typing import Any, Final

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from conf_server.serving.error_body import ErrorBody
from conf_server.serving.own_routes import EVENT_STREAM, answer_of, errors_of
from conf_server.serving.think_answer import ThinkStream
from conf_server.small_server.body_errors import require_json
from conf_server.small_server.disconnects import ends_with_client
from conf_server.small_server.generation_answers import ChatAnswer, CompletionAnswer, ThinkAnswer
from conf_server.small_server.generation_handler import ServingGeneration
from conf_server.small_server.generation_requests import ChatRequest, CompletionRequest
from conf_server.small_server.think_generation import SmallThink, ThinkChatRequest

router = APIRouter()

_GUARDS: Final[list[Any]] = [Depends(require_json)]


@router.post(
    "/v1/chat/completions",
    dependencies=_GUARDS,
    responses=errors_of(ErrorBody) | answer_of(ChatAnswer, **EVENT_STREAM),
)
@ends_with_client
async def create_chat_completion(request: ChatRequest, raw_request: Request) -> Response:
    """Answer a chat as OpenAI does, and with `confidence` say how sure the model was."""
    return await _created(request, raw_request)


@router.post(
    "/v1/think/chat/completions",
    dependencies=_GUARDS,
    responses=errors_of(ErrorBody) | answer_of(ThinkAnswer, **EVENT_STREAM),
)
@ends_with_client
async def create_thought(request: ThinkChatRequest, raw_request: Request) -> Response:
    """Answer a chat many times, end the traces that are unsure, and let the others vote."""
    handler: SmallThink = raw_request.app.state.conf_server_think
    job = await handler.job(request, raw_request)
    if not request.stream:
        return JSONResponse(await job.whole())
    events = ThinkStream(job, handler.host).events()
    return StreamingResponse(events, media_type="text/event-stream")


@router.post(
    "/v1/completions",
    dependencies=_GUARDS,
    responses=errors_of(ErrorBody) | answer_of(CompletionAnswer, **EVENT_STREAM),
)
@ends_with_client
async def create_completion(request: CompletionRequest, raw_request: Request) -> Response:
    """Complete a prompt as OpenAI does, and with `confidence` say how sure the model was."""
    return await _created(request, raw_request)


async def _created(request: ChatRequest | CompletionRequest, raw_request: Request) -> Response:
    handler: ServingGeneration = raw_request.app.state.conf_server_generation
    answer = await handler.create(request, raw_request)
    if isinstance(answer, bytes):
        return Response(answer, media_type="application/json")
    return StreamingResponse(answer, media_type="text/event-stream")
