"""conf-server behind Ray Serve: each replica has an engine, and answers with conf-server's routes.

Each node needs conf-server with its engine, and `ray[serve]`. In deploy/ray:

    serve run --working-dir . serve:application flags="--model MODEL --max-model-len 8192"

What else can be said to it, each as NAME=VALUE: `replicas` (1), `gpus` of one replica (1; 0 where
there is none), `cpus` of one replica (1). docs/deployment.md says what was seen.
"""

from __future__ import annotations

import os
import shlex
from argparse import Namespace
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from types import SimpleNamespace

from ray import serve
from starlette.applications import Starlette

from conf_server.flags import DRAIN_S


def application(options: Mapping[str, str]) -> serve.Application:
    """What `serve run` and a Serve configuration file call, with their arguments."""
    unknown = set(options) - {"flags", "replicas", "gpus", "cpus"}
    if unknown or "flags" not in options:
        raise ValueError(f"flags=... is needed, and what is not known is {sorted(unknown)}")
    flags = shlex.split(options["flags"])

    def build() -> Starlette:
        return served(flags)

    deployment = serve.deployment(
        serve.ingress(build)(Replica),
        name="conf-server",
        num_replicas=int(options.get("replicas", 1)),
        ray_actor_options={
            "num_cpus": float(options.get("cpus", 1)),
            "num_gpus": float(options.get("gpus", 1)),
        },
        # vLLM queues and batches: a limit of Serve's own would only keep requests from it.
        max_ongoing_requests=10_000,
        health_check_period_s=10,
        graceful_shutdown_timeout_s=DRAIN_S + 30,
    )
    return deployment.bind()


class Replica:
    """One replica. Serve mixes the app in, as `app`."""

    app: Starlette

    async def check_health(self) -> None:
        """Raise where the engine has died, so that Serve starts another replica."""
        await self.app.state.engine.check_health()


def served(flags: list[str]) -> Starlette:
    """conf-server as an app: its start is the engine's start, its end the engine's end.

    Args:
        flags: of `conf-server`. --host, --port and TLS are Ray Serve's business.

    Raises:
        SettingsError: a flag is wrong, or asks for processes that a replica does not have.
    """
    from conf_server.engine.client.start import Shutdown, engine_client
    from conf_server.flags import check_flags, parse_args
    from conf_server.launcher import build_confidence_app
    from conf_server.settings import ConfidenceSettings

    args = parse_args(flags)
    settings = ConfidenceSettings.from_args(args, os.environ)
    check_flags(args, settings, os.environ)
    refuse_other_processes(args)

    @asynccontextmanager
    async def lifespan(replica: Starlette) -> AsyncIterator[None]:
        async with engine_client(args, {}, Shutdown()) as engine:
            app = await build_confidence_app(engine, args, settings)
            # The handlers look here whether the server stops; Serve sends a replica that stops
            # no more requests.
            app.state.server = SimpleNamespace(should_exit=False)
            replica.state.engine = engine
            replica.mount("/", app)
            async with app.router.lifespan_context(app):
                yield

    return Starlette(lifespan=lifespan)


def refuse_other_processes(args: Namespace) -> None:
    """Raise SettingsError for what a replica, which is one API process, cannot have."""
    from conf_server.scorer.scorer_options import ScorerSettings
    from conf_server.settings import SettingsError

    if (args.api_server_count or 1) > 1 or args.headless:
        raise SettingsError("--api-server-count, --headless: ask Ray Serve for replicas instead")
    if ScorerSettings.from_args(args) is not None:
        raise SettingsError("--scorer: not available behind Ray Serve")
