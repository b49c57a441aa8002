"""What the small server says of itself: models, health, readiness, versions, metrics."""

from __future__ import annotations

from http import HTTPStatus
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from conf_server import __version__
from conf_server.serving.cut_requests import RETRY_AFTER_S
from conf_server.serving.error_body import ErrorBody, error_body
from conf_server.serving.own_routes import errors_of
from conf_server.small_server.served_model import ServedModel

router = APIRouter()

_ERRORS: Final = errors_of(ErrorBody)
_PACKAGES: Final = ("torch", "transformers")


@router.get("/v1/models")
async def list_models(raw_request: Request) -> dict[str, Any]:
    """List the names of the model."""
    served: ServedModel = raw_request.app.state.conf_server_model
    return {"object": "list", "data": [served.card(name) for name in served.names]}


@router.get("/v1/models/{model_id:path}", responses={404: _ERRORS[404]})
async def retrieve_model(model_id: str, raw_request: Request) -> dict[str, Any]:
    """Describe one of the models of `GET /v1/models`."""
    served: ServedModel = raw_request.app.state.conf_server_model
    served.check_name(model_id)
    return served.card(model_id)


@router.get("/health")
async def show_health() -> Response:
    """Answer 200 while the server lives."""
    return Response()


@router.get("/ready", responses={503: _ERRORS[503]})
async def show_readiness(raw_request: Request) -> Response:
    """Tell whether this server should get another request: not while it stops."""
    server = getattr(raw_request.app.state, "server", None)
    if server is None or not server.should_exit:
        return JSONResponse({"ready": True})
    status = HTTPStatus.SERVICE_UNAVAILABLE
    answer = error_body("Not ready: the server is stopping.", "ServiceUnavailableError", status)
    headers = {"Retry-After": str(RETRY_AFTER_S)}
    return JSONResponse(answer.model_dump(), status_code=status, headers=headers)


@router.get("/version")
async def show_version() -> dict[str, str]:
    """Tell the version of conf-server, and of what runs the model."""
    found = {"conf_server_version": __version__, "backend": "transformers"}
    for package in _PACKAGES:
        try:
            found[f"{package}_version"] = version(package)
        except PackageNotFoundError:
            continue  # another backend's server
    return found


@router.get("/metrics")
async def show_metrics(raw_request: Request) -> Response:
    """Answer all metrics as Prometheus reads them."""
    registry: CollectorRegistry = raw_request.app.state.conf_server_metrics
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)
