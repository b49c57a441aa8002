"""conf-server's routes in a stock vLLM server, through `vllm.endpoint_plugins`.

No formula lives here: routes, handlers and settings are conf_server's own. What a stock
server lacks is our output processor, so log-probabilities arrive as vLLM's objects and
are read into the same arrays: the same numbers, at vLLM's own cost per token.

conf-server loads this plugin too, where VLLM_PLUGINS still names it. All of it is there already.
"""

import os
from argparse import Namespace

from fastapi import FastAPI
from starlette.datastructures import State
from vllm.engine.protocol import EngineClient

from conf_server.serving.errors import install_error_bodies
from conf_server.serving.routes import init_confidence_state, router, server_router
from conf_server.serving.version import publish_version
from conf_server.settings import ConfidenceSettings, SettingsError


class ConfidencePlugin:
    """The entry point `confidence_logprobs`: `VLLM_PLUGINS=confidence_logprobs vllm serve ...`."""

    name = "confidence_logprobs"
    required_tasks = ("generate",)

    def attach_router(self, app: FastAPI) -> None:
        """Add our routes; vLLM lets them replace its own of the same path."""
        if _is_conf_server(app.state.args):
            return
        app.include_router(server_router)
        app.include_router(router)
        install_error_bodies(app)
        publish_version()

    async def init_state(
        self, engine_client: EngineClient | None, state: State, args: Namespace
    ) -> None:
        """Put our handlers where vLLM's routes look for theirs.

        Raises:
            SettingsError: a bad environment variable, or fewer log-probabilities than top_k.
        """
        assert engine_client is not None  # required_tasks excludes the render server
        if _is_conf_server(args):
            return
        settings = ConfidenceSettings.from_args(args, os.environ)
        if 0 <= args.max_logprobs < settings.top_k:
            raise SettingsError(
                f"--max-logprobs: must be at least {settings.top_k}, the confidence top_k"
            )
        init_confidence_state(state, settings)


def _is_conf_server(args: Namespace) -> bool:
    """Whether the server's flags are ours: a stock server does not know them."""
    return hasattr(args, "token_statistics")
