"""The app that vLLM has built, with all of ours in it."""

from __future__ import annotations

from fastapi import FastAPI

from conf_server import __version__
from conf_server.serving.admission import api_keys
from conf_server.serving.guarded_app import guard
from conf_server.serving.routes import install_routes, router, server_router
from conf_server.serving.stock_routes import stricter_routes
from conf_server.serving.version import publish_version
from conf_server.settings import ConfidenceSettings

_DESCRIPTION = (
    "vLLM's OpenAI server with confidence: how sure the model was of its answers, and of texts "
    "that somebody else wrote."
)


def extend_app(app: FastAPI, generates: bool, settings: ConfidenceSettings | None = None) -> None:
    """Add our routes, the bodies of errors and the version's metric.

    Args:
        app: as `build_app` of vLLM returns it, with its middleware stack built.
        generates: whether the model generates text; other models have vLLM's routes and those
            of any server.
        settings: what of it holds for all routes; None for the defaults.
    """
    settings = settings or ConfidenceSettings()
    app.title, app.version, app.description = "conf-server", __version__, _DESCRIPTION
    # `init_confidence_state` decides it where there is an engine.
    app.state.conf_server_logprobs_encoder = None
    app.state.conf_server_max_engine_silence = settings.max_engine_silence
    install_routes(app, server_router)
    if generates:
        install_routes(app, stricter_routes(app))
        install_routes(app, router)
    guard(app, settings.max_body_bytes, api_keys(app.state.args))
    publish_version()
