"""Our routes, and how they are put into an app that vLLM has built."""

from __future__ import annotations

import math
from copy import copy
from http import HTTPStatus
from typing import Any

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from fastapi.routing import APIRoute
from starlette.datastructures import State
from vllm.entrypoints.openai.chat_completion import api_router as chat_router
from vllm.entrypoints.openai.completion import api_router as completion_router
from vllm.entrypoints.openai.models.serving import OpenAIServingModels
from vllm.entrypoints.openai.responses import api_router as responses_router
from vllm.entrypoints.serve.engine.protocol import ErrorResponse, ModelCard
from vllm.entrypoints.serve.utils.api_utils import (
    load_aware_call,
    validate_json_request,
    with_cancellation,
)
from vllm.entrypoints.serve.utils.sse_keep_alive import with_sse_keep_alive
from vllm.logger import init_logger
from vllm.version import __version__ as vllm_version

from conf_server import __version__
from conf_server.backends.base import Backend, ForcingBackend
from conf_server.backends.paired import PairedBackend, Side, readers_of, side_of
from conf_server.backends.served import ServedBackend, max_candidates
from conf_server.engine.client.readiness import obstacle
from conf_server.engine.client.sleeper import EngineSleeper
from conf_server.engine.states_support import NOT_ENABLED, StatesSupport
from conf_server.gathering.estimation import Estimator
from conf_server.judges.models import all_judges, load_models
from conf_server.scorer.scorer_backend import ScorerBackend
from conf_server.scorer.supervisor import RunningScorer
from conf_server.scorer.turns import ScorerInTurn
from conf_server.serving.chat import ConfidenceServingChat
from conf_server.serving.completion import ConfidenceServingCompletion
from conf_server.serving.cut_requests import RETRY_AFTER_S
from conf_server.serving.default_estimates import DefaultEstimates
from conf_server.serving.error_body import error_body
from conf_server.serving.hidden_states_handler import ServingHiddenStates
from conf_server.serving.logprobs_encoder import LogprobsEncoder
from conf_server.serving.model_identity import fitted_for
from conf_server.serving.own_routes import EVENT_STREAM, answer_of, errors_of, own_routes, spliced
from conf_server.serving.requests import (
    ConfidenceChatCompletionRequest,
    ConfidenceCompletionRequest,
)
from conf_server.serving.responses import (
    ConfidenceChatCompletionResponse,
    ConfidenceCompletionResponse,
    ThinkChatCompletionResponse,
)
from conf_server.serving.responses_handler import ConfidenceServingResponses
from conf_server.serving.responses_request import ConfidenceResponsesRequest
from conf_server.serving.score_handler import ServingScore
from conf_server.serving.served_head import served_head
from conf_server.serving.think_answer import ThinkStream
from conf_server.serving.think_handler import ServingThink
from conf_server.serving.think_request import ThinkRequest
from conf_server.serving.uncertainty_handler import ServingUncertainty
from conf_server.serving.vllm_host import VllmHost, model_identity, model_shape
from conf_server.settings import ConfidenceSettings, SettingsError
from conf_server.uncertainty.registry import MethodError, load_entry_points

logger = init_logger("vllm.conf_server.routes")

_ERRORS = errors_of(ErrorResponse)

router = own_routes(
    [Depends(validate_json_request)],
    lambda endpoint: with_cancellation(load_aware_call(endpoint)),
    ErrorResponse,
)
"""Routes that need a model that generates text."""

server_router = APIRouter()
"""Routes that every server has."""


@router.post(
    "/v1/chat/completions",
    dependencies=[Depends(validate_json_request)],
    responses=_ERRORS | answer_of(ConfidenceChatCompletionResponse, **EVENT_STREAM),
)
async def create_chat_completion(
    request: ConfidenceChatCompletionRequest, raw_request: Request
) -> Response:
    """Answer a chat as OpenAI does, and with `confidence` say how sure the model was."""
    response: Response = await spliced(chat_router.create_chat_completion, request, raw_request)
    return response


@router.post(
    "/v1/think/chat/completions",
    dependencies=[Depends(validate_json_request)],
    responses=_ERRORS | answer_of(ThinkChatCompletionResponse, **EVENT_STREAM),
)
@with_cancellation
@load_aware_call
async def create_thought(request: ThinkRequest, raw_request: Request) -> Response:
    """Answer a chat many times, end the traces that are unsure, and let the others vote."""
    response: Response = await spliced(_create_thought, request, raw_request)
    return response


async def _create_thought(request: ThinkRequest, raw_request: Request) -> Response:
    state = raw_request.app.state
    handler: ServingThink = state.conf_server_think
    job = await handler.job(request, raw_request)
    if not request.stream:
        return JSONResponse(await job.whole())
    interval = float(getattr(state.args, "sse_keep_alive_interval", 0))
    events = ThinkStream(job, handler.host).events()
    return StreamingResponse(with_sse_keep_alive(events, interval), media_type="text/event-stream")


@router.post(
    "/v1/completions",
    dependencies=[Depends(validate_json_request)],
    responses=_ERRORS | answer_of(ConfidenceCompletionResponse, **EVENT_STREAM),
)
async def create_completion(request: ConfidenceCompletionRequest, raw_request: Request) -> Response:
    """Complete a prompt as OpenAI does, and with `confidence` say how sure the model was."""
    response: Response = await spliced(completion_router.create_completion, request, raw_request)
    return response


@router.post(
    "/v1/responses",
    dependencies=[Depends(validate_json_request)],
    responses=_ERRORS | {HTTPStatus.OK.value: EVENT_STREAM},
)
async def create_response(request: ConfidenceResponsesRequest, raw_request: Request) -> Response:
    """Answer as OpenAI's newer route does, and with `confidence` say how sure the model was."""
    request.check_stream(raw_request.app.state.engine_client)
    response: Response = await responses_router.create_responses(request, raw_request)
    return response


@server_router.get("/v1/models/{model_id:path}", responses=answer_of(ModelCard) | _ERRORS)
async def retrieve_model(model_id: str, raw_request: Request) -> Response:
    """Describe one of the models of `GET /v1/models`."""
    models: OpenAIServingModels = raw_request.app.state.openai_serving_models
    for card in (await models.show_available_models()).data:
        if card.id == model_id:
            return JSONResponse(card.model_dump())
    status = HTTPStatus.NOT_FOUND
    message = f"The model `{model_id}` does not exist."
    answer = error_body(message, "NotFoundError", status, param="model")
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
    answer = error_body(f"Not ready: {reason}.", "ServiceUnavailableError", status)
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
    state: State,
    settings: ConfidenceSettings,
    states: StatesSupport = NOT_ENABLED,
    scorer: RunningScorer | None = None,
) -> None:
    """Replace vLLM's handlers by ours. vLLM's own `init_app_state` has to run before.

    Args:
        states: what the workers give of hidden states.
        scorer: that reads what the engine cannot; None without one.

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
    state.openai_serving_responses = ConfidenceServingResponses.adopt(
        state.openai_serving_responses, settings
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
    host = VllmHost(chat)
    state.conf_server_think = ServingThink(host, chat, settings)
    state.conf_server_score = ServingScore(host, backend, settings)
    # Estimates may be read by a scorer, too; other routes are the engine's.
    reading = _beside_scorer(backend, scorer, chat.engine_client)
    choice = readers_of(reading).choose(lambda limits: limits.states)
    identity = fitted = None
    if choice.side is not None:
        identity = model_identity(chat, side_of(reading, choice.side).limits())
    if settings.fitted is not None:
        fitted = fitted_for(settings.fitted, identity, choice.reason)
    engine_identity = identity if choice.side is Side.ENGINE else None
    state.conf_server_hidden_states = ServingHiddenStates(host, backend, settings, engine_identity)
    head = None
    if settings.uhead is not None:
        head = served_head(settings, model_shape(chat.model_config), identity)
    estimator = Estimator(reading, judges, settings, fitted=fitted, head=head)
    state.conf_server_uncertainty = ServingUncertainty(host, estimator, settings.default_methods)
    defaults = DefaultEstimates(estimator, backend, settings)
    chat.default_estimates = completion.default_estimates = defaults
    state.openai_serving_responses.default_estimates = defaults


def _beside_scorer(backend: Backend, scorer: RunningScorer | None, engine: Any) -> Backend:
    """The engine's backend, with the scorer beside it if there is one."""
    if scorer is None:
        return backend
    process = ScorerBackend(scorer.path, scorer.hello)
    asked: ForcingBackend = process
    if scorer.in_turn:
        asked = ScorerInTurn(process, EngineSleeper(engine))
    return PairedBackend(backend, asked, same_model=scorer.same_model)
