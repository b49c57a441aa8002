"""Starts the small server: model, app, HTTP server, and the end of all that."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol

import uvicorn

from conf_server.backends.base import Ask, Backend, Caller, Plain
from conf_server.backends.streaming import StreamingBackend
from conf_server.before_start import socket_at
from conf_server.draining import CUT_S, Draining, drain_on_signals
from conf_server.engine.weights import weights_fingerprint
from conf_server.heads.features import ModelShape
from conf_server.judges.models import load_models
from conf_server.serving.model_identity import fitted_for, hashed_template
from conf_server.serving.served_head import check_served_head, served_head
from conf_server.settings import SettingsError
from conf_server.small_server.choices import UNTOLD
from conf_server.small_server.generation_handler import GenerationDefaults
from conf_server.small_server.served_model import ServedModel
from conf_server.small_server.server_options import ServerOptions
from conf_server.small_server.small_app import Served, build_app
from conf_server.systemd import ServiceNotifier
from conf_server.uncertainty.fitted import ModelIdentity

logger = logging.getLogger("vllm.conf_server.small_server")

_EVERYWHERE = "0.0.0.0"


class SmallServer(Draining):
    """uvicorn's server, which leaves signals to us."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class _Alive:
    """Nothing of this process can die by itself: it is well as long as it answers systemd."""

    async def check_health(self) -> None:
        pass


class LoadedBackend(StreamingBackend, Protocol):
    """A backend whose model lives in this process."""

    tokenizer: Any

    def close(self) -> None:
        """End its work."""


Load = Callable[[Mapping[str, Any]], LoadedBackend]
"""Loads the model; takes the arguments of `TransformersOptions`."""


def load_transformers(loading: Mapping[str, Any]) -> LoadedBackend:
    """
    Raises:
        SettingsError: an option that this machine or this model cannot meet.
    """
    # Imported here, so that a wrong flag is refused before torch is loaded, which takes seconds.
    from conf_server.backends.transformers import TransformersBackend
    from conf_server.backends.transformers_options import TransformersOptions

    return TransformersBackend.load(TransformersOptions(**loading))


def run(options: ServerOptions, load: Load = load_transformers) -> None:
    """Serve until a signal comes.

    Raises:
        SettingsError: a flag that turns out to be wrong while the model is loaded.
    """
    sock = bound_socket(options)
    _log_to_stderr()
    logger.info(
        "--backend transformers: for machines without vLLM, whose engine is faster by far. One "
        "model in this process, float32 or what --dtype says, no prefix cache."
    )
    try:
        shape = _checked_shape(options)
        backend = load(options.loading)
        try:
            app = build_app(backend, options.settings, _served(options, backend, shape))
            asyncio.run(_serve(options, app, backend, sock))
        finally:
            backend.close()
    finally:
        sock.close()


def _log_to_stderr() -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(levelname)s %(asctime)s [%(name)s] %(message)s"))
    ours = logging.getLogger("vllm.conf_server")
    ours.setLevel(logging.INFO)
    ours.addHandler(handler)
    ours.propagate = False


def bound_socket(options: ServerOptions) -> socket.socket:
    """A socket that has its address before the model is loaded, and listens after.

    Raises:
        SettingsError: the address is not to be had.
    """
    return socket_at(options.host or _EVERYWHERE, options.port)


def _checked_shape(options: ServerOptions) -> ModelShape | None:
    """The model's sizes, held against the head of --uhead; None where there is no head.

    Raises:
        SettingsError: saying why the head is of no use, or that there is no model.
    """
    if options.settings.uhead is None:
        return None
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(
            options.model,
            revision=options.loading.get("revision"),
            trust_remote_code=options.loading.get("trust_remote_code", False),
        ).get_text_config()
    except (OSError, ValueError) as error:
        raise SettingsError(f"--model: there is none in {options.model}: {error}") from error
    shape = ModelShape(
        num_layers=config.num_hidden_layers,
        num_heads=config.num_attention_heads,
        hidden_size=config.hidden_size,
    )
    check_served_head(options.settings, shape)
    return shape


def _served(options: ServerOptions, backend: LoadedBackend, shape: ModelShape | None) -> Served:
    """What is served beside the backend.

    Raises:
        SettingsError: --fitted, --uhead or a model that compares texts is of no use.
    """
    settings, limits = options.settings, backend.limits()
    identity, fitted, head = None, None, None
    if settings.enable_hidden_states and limits.states is None:
        identity = ModelIdentity(
            root=options.model,
            num_layers=limits.num_layers,
            hidden_size=limits.hidden_size,
            weights=weights_fingerprint(options.model, options.loading.get("revision")),
            chat_template=hashed_template(getattr(backend.tokenizer, "chat_template", None)),
        )
    if settings.fitted is not None:
        fitted = fitted_for(settings.fitted, identity, limits.states)
    if shape is not None:
        head = served_head(settings, shape, identity)
    return Served(
        model=ServedModel(options.names, options.model, limits.max_len),
        defaults=_defaults(options),
        judges=load_models(settings),
        identity=identity,
        fitted=fitted,
        head=head,
        keys=options.keys,
        trusts_templates=options.trusts_templates,
    )


def _defaults(options: ServerOptions) -> GenerationDefaults:
    """What the model's generation config says, where there is one; the backend reads the rest."""
    from transformers import GenerationConfig

    try:
        config = GenerationConfig.from_pretrained(
            options.model, revision=options.loading.get("revision", "main")
        )
    except OSError:  # there is none
        return GenerationDefaults()
    usual = GenerationDefaults().temperature
    temperature = usual if config.temperature is None else float(config.temperature)
    return GenerationDefaults(temperature, config.max_new_tokens)


async def _serve(options: ServerOptions, app: Any, backend: Backend, sock: socket.socket) -> None:
    config = uvicorn.Config(
        app,
        log_level=options.log_level,
        access_log=options.access_log,
        # Only in case of need: `Draining` ends the drain by itself.
        timeout_graceful_shutdown=options.drain_s + CUT_S,
    )
    server = SmallServer(config, options.drain_s, app.state.conf_server_stopping)
    app.state.server = server
    drain_on_signals(server, lambda: len(server.server_state.tasks))
    notifier = ServiceNotifier.from_environ(os.environ).run(
        _Alive(), server, partial(_first_answer, backend), stop_s=options.drain_s + CUT_S + 10
    )
    telling = asyncio.create_task(notifier)
    logger.info("Serving %s on port %d", " and ".join(options.names), options.port)
    try:
        await server.serve(sockets=[sock])
    finally:
        telling.cancel()
        (outcome,) = await asyncio.gather(telling, return_exceptions=True)
    if isinstance(outcome, Exception):  # the model did not answer: not a clean stop
        raise outcome


async def _first_answer(backend: Backend) -> None:
    """One token, before systemd hears that the server is ready."""
    await backend.generate(Ask(Plain("Hello"), max_tokens=1), UNTOLD, Caller("first-answer"))
