"""The app of the small server: all its routes, handlers and what stands around them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from fastapi import Depends, FastAPI
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector

from conf_server import __version__
from conf_server.backends.streaming import StreamingBackend
from conf_server.gathering.estimation import Estimator
from conf_server.heads.uncertainty_head import UncertaintyHead
from conf_server.judges.models import all_judges
from conf_server.serving.default_estimates import DefaultEstimates
from conf_server.serving.guarded_app import guard
from conf_server.serving.hidden_states_handler import ServingHiddenStates
from conf_server.serving.logprobs_encoder import LogprobsEncoder
from conf_server.serving.own_routes import own_routes
from conf_server.serving.score_handler import ServingScore
from conf_server.serving.uncertainty_handler import ServingUncertainty
from conf_server.settings import ConfidenceSettings, SettingsError
from conf_server.small_server import chat_and_completion_routes, server_routes
from conf_server.small_server.body_errors import install_body_errors, require_json
from conf_server.small_server.disconnects import ends_with_client
from conf_server.small_server.front_backend import FrontBackend
from conf_server.small_server.generation_handler import GenerationDefaults, ServingGeneration
from conf_server.small_server.request_metrics import CountedRequests, TokenCounters, publish_build
from conf_server.small_server.served_model import ServedModel
from conf_server.small_server.think_generation import SmallThink
from conf_server.uncertainty.fitted import Fitted, ModelIdentity

_DESCRIPTION = (
    "OpenAI's API for one model that transformers runs, with confidence: how sure the model was "
    "of its answers, and of texts that somebody else wrote."
)
_GUARDED = ("/v1",)
"""What wants a key for reading as well, as with vLLM's server."""


@dataclass(frozen=True)
class Served:
    """What the app serves beside its backend.

    Attributes:
        judges: of `load_models`: models that compare texts, by name.
        identity: of the model; None where it gives no hidden states.
        fitted: what was learned of its hidden states.
        head: a trained uncertainty head of it.
        keys: that requests have to bring; none for an open server.
        trusts_templates: whether requests may bring chat templates.
    """

    model: ServedModel
    defaults: GenerationDefaults = field(default_factory=GenerationDefaults)
    judges: dict[str, Any] = field(default_factory=dict)
    identity: ModelIdentity | None = None
    fitted: Fitted | None = None
    head: UncertaintyHead | None = None
    keys: Sequence[str] = ()
    trusts_templates: bool = False


def build_app(backend: StreamingBackend, settings: ConfidenceSettings, served: Served) -> FastAPI:
    """The app, ready to be served.

    Raises:
        SettingsError: --confidence-top-k is more than the backend has candidates, or one of
            --default-methods cannot be had.
    """
    limits = backend.limits()
    if settings.top_k > limits.candidates:
        raise SettingsError(
            f"--confidence-top-k: must be at most {limits.candidates} (the vocabulary, "
            f"--max-logprobs), got {settings.top_k}"
        )
    settings = replace(settings, statistics_obstacle=limits.statistics)
    app = FastAPI(title="conf-server", version=__version__, description=_DESCRIPTION)
    app.include_router(chat_and_completion_routes.router)
    app.include_router(own_routes([Depends(require_json)], ends_with_client))
    app.include_router(server_routes.router)
    registry = CollectorRegistry()
    for collector in (ProcessCollector, PlatformCollector, GCCollector):
        collector(registry=registry)
    publish_build(registry, "transformers")
    app.state.conf_server_metrics = registry
    app.state.conf_server_model = served.model
    _add_handlers(app, backend, settings, served, TokenCounters(registry))
    install_body_errors(app)
    app.add_middleware(CountedRequests, registry=registry)
    guard(app, settings.max_body_bytes, served.keys, _GUARDED)
    return app


def _add_handlers(
    app: FastAPI,
    behind: StreamingBackend,
    settings: ConfidenceSettings,
    served: Served,
    counters: TokenCounters,
) -> None:
    backend = FrontBackend(
        behind,
        counters,
        served.model.names[0],
        trusts_templates=served.trusts_templates,
        gives_states=settings.enable_hidden_states,
    )
    host, state, encoder = served.model, app.state, LogprobsEncoder()
    state.conf_server_logprobs_encoder = encoder
    state.conf_server_score = ServingScore(host, backend, settings)
    state.conf_server_hidden_states = ServingHiddenStates(host, backend, settings, served.identity)
    judges = all_judges(backend, served.judges)
    estimator = Estimator(backend, judges, settings, fitted=served.fitted, head=served.head)
    state.conf_server_uncertainty = ServingUncertainty(host, estimator, settings.default_methods)
    generation = state.conf_server_generation = ServingGeneration(
        host,
        backend,
        settings,
        encoder,
        served.defaults,
        counters,
        DefaultEstimates(estimator, backend, settings),
    )
    state.conf_server_think = SmallThink(host, generation, backend, settings)
