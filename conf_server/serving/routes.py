"""Our routes, and how they are put into an app that vLLM has built."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from copy import copy
from http import HTTPStatus
from typing import Any, Final

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.datastructures import State
from vllm.entrypoints.openai.chat_completion import api_router as chat_router
from vllm.entrypoints.openai.completion import api_router as completion_router
from vllm.entrypoints.openai.models.serving import OpenAIServingModels
from vllm.entrypoints.serve import create_error_response
from vllm.entrypoints.serve.engine.protocol import ErrorResponse, ModelCard
from vllm.entrypoints.serve.utils.api_utils import (
    load_aware_call,
    validate_json_request,
    with_cancellation,
)
from vllm.logger import init_logger
from vllm.version import __version__ as vllm_version

from conf_server import __version__
from conf_server.backends.served import ServedBackend, max_candidates
from conf_server.engine.client.readiness import obstacle
from conf_server.engine.states_support import NOT_ENABLED, StatesSupport
from conf_server.gathering.estimation import Estimator
from conf_server.judges.models import all_judges, load_models
from conf_server.serving.chat import ConfidenceServingChat
from conf_server.serving.completion import ConfidenceServingCompletion
from conf_server.serving.cut_requests import RETRY_AFTER_S
from conf_server.serving.hidden_states_handler import ServingHiddenStates
from conf_server.serving.hidden_states_protocol import (
    HiddenStatesModel,
    HiddenStatesRequest,
    HiddenStatesResponse,
)
from conf_server.serving.logprobs_encoder import LogprobsEncoder
from conf_server.serving.model_identity import fitted_for, model_identity
from conf_server.serving.requests import (
    ConfidenceChatCompletionRequest,
    ConfidenceCompletionRequest,
)
from conf_server.serving.responses import (
    ConfidenceChatCompletionResponse,
    ConfidenceCompletionResponse,
)
from conf_server.serving.score_handler import ServingScore
from conf_server.serving.score_protocol import ScoreRequest, ScoreResponse
from conf_server.serving.served_head import served_head
from conf_server.serving.splices import SplicedRequest, Splices
from conf_server.serving.uncertainty_handler import ServingUncertainty
from conf_server.serving.uncertainty_protocol import (
    MethodList,
    UncertaintyRequest,
    UncertaintyResponse,
)
from conf_server.settings import ConfidenceSettings, SettingsError
from conf_server.uncertainty.registry import MethodError, load_entry_points

logger = init_logger("vllm.conf_server.routes")

router = APIRouter()
"""Routes that need a model that generates text."""

server_router = APIRouter()
"""Routes that every server has."""

_ERRORS: dict[int | str, dict[str, Any]] = {
    status.value: {"model": ErrorResponse}
    for status in (
        HTTPStatus.BAD_REQUEST,
        HTTPStatus.NOT_FOUND,
        HTTPStatus.INTERNAL_SERVER_ERROR,
        HTTPStatus.NOT_IMPLEMENTED,
        HTTPStatus.SERVICE_UNAVAILABLE,
    )
}
_EVENT_STREAM: dict[str, Any] = {"content": {"text/event-stream": {}}}
_FILE: Final = "application/octet-stream"
_SAFETENSORS: dict[str, Any] = {
    "content": {_FILE: {"schema": {"type": "string", "format": "binary"}}}
}


def _answer(model: type[BaseModel], **more: Any) -> dict[int | str, dict[str, Any]]:
    """What OpenAPI says of the 200 of a route that makes its own response.

    FastAPI validates nothing against it. With a `response_model` it would: `with_cancellation`
    returns None when a client has left, which is no answer of that model, and each such client
    would leave a traceback in the log.
    """
    return {HTTPStatus.OK.value: {"model": model, **more}}


@router.post(
    "/v1/chat/completions",
    dependencies=[Depends(validate_json_request)],
    responses=_ERRORS | _answer(ConfidenceChatCompletionResponse, **_EVENT_STREAM),
)
async def create_chat_completion(
    request: ConfidenceChatCompletionRequest, raw_request: Request
) -> Response:
    """Answer a chat as OpenAI does, and with `confidence` say how sure the model was."""
    return await _spliced(chat_router.create_chat_completion, request, raw_request)


@router.post(
    "/v1/completions",
    dependencies=[Depends(validate_json_request)],
    responses=_ERRORS | _answer(ConfidenceCompletionResponse, **_EVENT_STREAM),
)
async def create_completion(request: ConfidenceCompletionRequest, raw_request: Request) -> Response:
    """Complete a prompt as OpenAI does, and with `confidence` say how sure the model was."""
    return await _spliced(completion_router.create_completion, request, raw_request)


async def _spliced(
    route: Callable[..., Awaitable[Any]], request: SplicedRequest, raw_request: Request
) -> Any:
    """vLLM's response, with the log-probabilities that our handlers have written as JSON."""
    encoder: LogprobsEncoder | None = raw_request.app.state.conf_server_logprobs_encoder
    if encoder is None:
        return await route(request, raw_request)
    splices = Splices(encoder)
    request.take_splices(splices)
    return await splices.fill_response(await route(request, raw_request))


@router.post(
    "/v1/score",
    dependencies=[Depends(validate_json_request)],
    responses=_ERRORS | _answer(ScoreResponse),
)
@with_cancellation
@load_aware_call
async def create_score(request: ScoreRequest, raw_request: Request) -> Response:
    """Score given completions: their log-probability and confidence, by teacher forcing."""
    return await _spliced(_score, request, raw_request)


async def _score(request: ScoreRequest, raw_request: Request) -> Response:
    handler: ServingScore = raw_request.app.state.conf_server_score
    answer = await handler.create_score(request, raw_request)
    if isinstance(answer, ErrorResponse):
        return JSONResponse(answer.model_dump(), status_code=answer.error.code)
    return Response(answer.model_dump_json(exclude_unset=True), media_type="application/json")


@router.post(
    "/v1/hidden_states",
    dependencies=[Depends(validate_json_request)],
    responses=_ERRORS | _answer(HiddenStatesResponse, **_SAFETENSORS),
)
@with_cancellation
@load_aware_call
async def create_hidden_states(request: HiddenStatesRequest, raw_request: Request) -> Response:
    """Read given texts, and answer what the layers that you name make of them."""
    handler: ServingHiddenStates = raw_request.app.state.conf_server_hidden_states
    answer = await handler.create_hidden_states(request, raw_request)
    if isinstance(answer, ErrorResponse):
        return JSONResponse(answer.model_dump(), status_code=answer.error.code)
    is_file = request.encoding_format == "safetensors"
    return Response(answer, media_type=_FILE if is_file else "application/json")


@router.get("/v1/hidden_states", responses=_ERRORS | _answer(HiddenStatesModel))
async def describe_hidden_states(raw_request: Request) -> Response:
    """Tell what model's hidden states are to be had, and of what size they are."""
    handler: ServingHiddenStates = raw_request.app.state.conf_server_hidden_states
    answer = handler.describe()
    if isinstance(answer, ErrorResponse):
        return JSONResponse(answer.model_dump(), status_code=answer.error.code)
    return Response(answer.model_dump_json(), media_type="application/json")


@router.post(
    "/v1/uncertainty",
    dependencies=[Depends(validate_json_request)],
    responses=_ERRORS | _answer(UncertaintyResponse, **_EVENT_STREAM),
)
@with_cancellation
@load_aware_call
async def create_uncertainty(request: UncertaintyRequest, raw_request: Request) -> Response:
    """Answer, or take an answer, and estimate how sure the model is of it."""
    handler: ServingUncertainty = raw_request.app.state.conf_server_uncertainty
    answer = await handler.create_uncertainty(request, raw_request)
    if isinstance(answer, ErrorResponse):
        return JSONResponse(answer.model_dump(), status_code=answer.error.code)
    if isinstance(answer, UncertaintyResponse):
        return Response(answer.model_dump_json(exclude_unset=True), media_type="application/json")
    return StreamingResponse(answer, media_type="text/event-stream")


@router.get("/v1/uncertainty/methods", responses=_answer(MethodList))
async def list_uncertainty_methods(raw_request: Request) -> Response:
    """List all methods: what each needs, where it comes from, whether this server can do it."""
    handler: ServingUncertainty = raw_request.app.state.conf_server_uncertainty
    return Response(handler.methods().model_dump_json(), media_type="application/json")


@server_router.get("/v1/models/{model_id:path}", responses=_answer(ModelCard) | _ERRORS)
async def retrieve_model(model_id: str, raw_request: Request) -> Response:
    """Describe one of the models of `GET /v1/models`."""
    models: OpenAIServingModels = raw_request.app.state.openai_serving_models
    for card in (await models.show_available_models()).data:
        if card.id == model_id:
            return JSONResponse(card.model_dump())
    status = HTTPStatus.NOT_FOUND
    message = f"The model `{model_id}` does not exist."
    answer = create_error_response(message, "NotFoundError", status, param="model")
    return JSONResponse(answer.model_dump(), status_code=status)


@server_router.get("/version")
async def show_version() -> dict[str, str]:
    """Tell vLLM's version, as a stock server does, and conf-server's."""
    return {"version": vllm_version, "conf_server_version": __version__}


@server_router.get("/ready", responses={HTTPStatus.SERVICE_UNAVAILABLE.value: _ERRORS[503]})
async def show_readiness(raw_request: Request) -> Response:
    """Tell whether this server should get another request: its engine answers, its queue has room.

    A server that lives (`/health`) but is not ready should be left alone, not restarted.
    """
    state = raw_request.app.state
    reason = "the server is stopping" if state.server.should_exit else None
    if reason is None and state.engine_client is not None:
        # A stock server with the plugin has no such flag, and an engine of which this is not known.
        max_silence_s = getattr(state, "conf_server_max_engine_silence", math.inf)
        reason = obstacle(state.engine_client, max_silence_s)
    if reason is None:
        return JSONResponse({"ready": True})
    status = HTTPStatus.SERVICE_UNAVAILABLE
    answer = create_error_response(f"Not ready: {reason}.", "ServiceUnavailableError", status)
    headers = {"Retry-After": str(RETRY_AFTER_S)}
    return JSONResponse(answer.model_dump(), status_code=status, headers=headers)


def install_routes(app: FastAPI, added: APIRouter) -> None:
    """Add routes to an app, in place of vLLM's routes with the same path and method."""
    ours = {(route.path, method) for route in _api_routes(added) for method in route.methods}
    kept = []
    for route in app.router.routes:
        if isinstance(route, APIRoute):
            methods = {method for method in route.methods if (route.path, method) not in ours}
            if not methods:
                continue
            if methods != route.methods:
                route = copy(route)
                route.methods = methods
        kept.append(route)
    app.router.routes[:] = kept
    app.include_router(added)
    app.openapi_schema = None


def _api_routes(router: APIRouter) -> list[APIRoute]:
    return [route for route in router.routes if isinstance(route, APIRoute)]


def init_confidence_state(
    state: State, settings: ConfidenceSettings, states: StatesSupport = NOT_ENABLED
) -> None:
    """Replace vLLM's handlers by ours. vLLM's own `init_app_state` has to run before.

    Args:
        states: what the workers give of hidden states.

    Raises:
        SettingsError: a similarity model cannot be loaded, or the engine has fewer candidates
            than --confidence-top-k wants, or a package's method cannot be registered, or what
            --fitted or --uhead names is of no use to this model.
    """
    try:
        load_entry_points()
    except MethodError as error:
        raise SettingsError(str(error)) from error
    limit = max_candidates(state.openai_serving_chat.model_config)
    if settings.top_k > limit:
        raise SettingsError(
            f"--confidence-top-k: must be at most {limit} (the vocabulary, --max-logprobs), got "
            f"{settings.top_k}"
        )
    state.openai_serving_chat = ConfidenceServingChat.adopt(state.openai_serving_chat, settings)
    state.openai_serving_completion = ConfidenceServingCompletion.adopt(
        state.openai_serving_completion, settings
    )
    fast = settings.logprobs_encoder == "fast"
    state.conf_server_logprobs_encoder = LogprobsEncoder() if fast else None
    logger.info(
        "Log-probabilities become JSON by --logprobs-encoder %s.", settings.logprobs_encoder
    )
    chat, completion = state.openai_serving_chat, state.openai_serving_completion
    backend = ServedBackend(
        chat, completion, settings.statistics_obstacle, states, settings.max_forced_tokens
    )
    judges = all_judges(backend, load_models(settings))
    state.conf_server_score = ServingScore(chat, backend, settings)
    limits = backend.limits()
    identity = model_identity(chat, limits) if limits.states is None else None
    fitted = (
        None if settings.fitted is None else fitted_for(settings.fitted, identity, limits.states)
    )
    state.conf_server_hidden_states = ServingHiddenStates(chat, backend, settings, identity)
    head = served_head(settings, chat.model_config, identity)
    estimator = Estimator(backend, judges, settings, fitted=fitted, head=head)
    state.conf_server_uncertainty = ServingUncertainty(chat, estimator)
