"""The routes that vLLM does not have, for any server that keeps our handlers in its state."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from http import HTTPStatus
from typing import Any, Final

from fastapi import APIRouter, Request
from fastapi.params import Depends
from fastapi.responses import Response, StreamingResponse
from pydantic import BaseModel

from conf_server.serving.error_body import ErrorBody
from conf_server.serving.hidden_states_handler import ServingHiddenStates
from conf_server.serving.hidden_states_protocol import (
    HiddenStatesModel,
    HiddenStatesRequest,
    HiddenStatesResponse,
)
from conf_server.serving.logprobs_encoder import LogprobsEncoder
from conf_server.serving.score_handler import ServingScore
from conf_server.serving.score_protocol import ScoreRequest, ScoreResponse
from conf_server.serving.splices import SplicedRequest, Splices
from conf_server.serving.uncertainty_handler import ServingUncertainty
from conf_server.serving.uncertainty_protocol import (
    MethodList,
    UncertaintyRequest,
    UncertaintyResponse,
)

Responses = dict[int | str, dict[str, Any]]
Endpoint = Callable[..., Awaitable[Any]]

_JSON: Final = "application/json"
_FILE: Final = "application/octet-stream"
EVENT_STREAM: Final[dict[str, Any]] = {"content": {"text/event-stream": {}}}
_SAFETENSORS: Final[dict[str, Any]] = {
    "content": {_FILE: {"schema": {"type": "string", "format": "binary"}}}
}


def errors_of(model: type[BaseModel]) -> Responses:
    """What OpenAPI says of a route's errors, whose body is `model`."""
    return {
        status.value: {"model": model}
        for status in (
            HTTPStatus.BAD_REQUEST,
            HTTPStatus.NOT_FOUND,
            HTTPStatus.INTERNAL_SERVER_ERROR,
            HTTPStatus.NOT_IMPLEMENTED,
            HTTPStatus.SERVICE_UNAVAILABLE,
        )
    }


def answer_of(model: type[BaseModel], **more: Any) -> Responses:
    """What OpenAPI says of the 200 of a route that makes its own response.

    FastAPI validates nothing against it. With a `response_model` it would: the work of a client
    that has left ends with None, which is no answer of that model, and each such client would
    leave a traceback in the log.
    """
    return {HTTPStatus.OK.value: {"model": model, **more}}


def own_routes(
    dependencies: Sequence[Depends],
    wrapped: Callable[[Endpoint], Endpoint],
    errors: type[BaseModel] = ErrorBody,
) -> APIRouter:
    """POST /v1/score, /v1/hidden_states and /v1/uncertainty, and what may be asked about them.

    Args:
        dependencies: what this server asks of a request with a body.
        wrapped: gives an endpoint what this server does around the work on such a request. That
            work ends where the client leaves, and the endpoint then returns None.
        errors: the body of errors, as this server's OpenAPI document names it.
    """
    router, failures = APIRouter(), errors_of(errors)

    def post(path: str, endpoint: Endpoint, answer: Responses) -> None:
        router.add_api_route(
            path,
            wrapped(endpoint),
            methods=["POST"],
            dependencies=list(dependencies),
            responses=failures | answer,
        )

    post("/v1/score", create_score, answer_of(ScoreResponse))
    post("/v1/hidden_states", create_hidden_states, answer_of(HiddenStatesResponse, **_SAFETENSORS))
    router.add_api_route(
        "/v1/hidden_states",
        describe_hidden_states,
        responses=failures | answer_of(HiddenStatesModel),
    )
    post("/v1/uncertainty", create_uncertainty, answer_of(UncertaintyResponse, **EVENT_STREAM))
    router.add_api_route(
        "/v1/uncertainty/methods", list_uncertainty_methods, responses=answer_of(MethodList)
    )
    return router


async def spliced(route: Endpoint, request: SplicedRequest, raw_request: Request) -> Any:
    """A route's response, with the log-probabilities that our handlers have written as JSON."""
    encoder: LogprobsEncoder | None = raw_request.app.state.conf_server_logprobs_encoder
    if encoder is None:
        return await route(request, raw_request)
    splices = Splices(encoder)
    request.take_splices(splices)
    return await splices.fill_response(await route(request, raw_request))


async def create_score(request: ScoreRequest, raw_request: Request) -> Response:
    """Score given completions: their log-probability and confidence, by teacher forcing."""
    response: Response = await spliced(_score, request, raw_request)
    return response


async def _score(request: ScoreRequest, raw_request: Request) -> Response:
    handler: ServingScore = raw_request.app.state.conf_server_score
    answer = await handler.create_score(request, raw_request)
    return Response(answer.model_dump_json(exclude_unset=True), media_type=_JSON)


async def create_hidden_states(request: HiddenStatesRequest, raw_request: Request) -> Response:
    """Read given texts, and answer what the layers that you name make of them."""
    handler: ServingHiddenStates = raw_request.app.state.conf_server_hidden_states
    answer = await handler.create_hidden_states(request, raw_request)
    is_file = request.encoding_format == "safetensors"
    return Response(answer, media_type=_FILE if is_file else _JSON)


async def describe_hidden_states(raw_request: Request) -> Response:
    """Tell what model's hidden states are to be had, and of what size they are."""
    handler: ServingHiddenStates = raw_request.app.state.conf_server_hidden_states
    return Response(handler.describe().model_dump_json(), media_type=_JSON)


async def create_uncertainty(request: UncertaintyRequest, raw_request: Request) -> Response:
    """Answer, or take an answer, and estimate how sure the model is of it."""
    handler: ServingUncertainty = raw_request.app.state.conf_server_uncertainty
    answer = await handler.create_uncertainty(request, raw_request)
    if isinstance(answer, UncertaintyResponse):
        return Response(answer.model_dump_json(exclude_unset=True), media_type=_JSON)
    return StreamingResponse(answer, media_type="text/event-stream")


async def list_uncertainty_methods(raw_request: Request) -> Response:
    """List all methods: what each needs, where it comes from, whether this server can do it."""
    handler: ServingUncertainty = raw_request.app.state.conf_server_uncertainty
    return Response(handler.methods().model_dump_json(), media_type=_JSON)
