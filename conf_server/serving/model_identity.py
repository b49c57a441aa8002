"""What the served model is, so that a fit of its hidden states is not used with another one."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from conf_server.backends.base import Limits
from conf_server.engine.weights import weights_fingerprint
from conf_server.settings import SettingsError
from conf_server.uncertainty.fitted import Fitted, ModelIdentity
from conf_server.uncertainty.fitted_file import FittedError, load_fitted


def model_identity(chat: Any, limits: Limits) -> ModelIdentity:
    """The identity of the model behind a chat handler of vLLM's.

    Args:
        limits: of a backend that gives hidden states.
    """
    config = chat.model_config
    template = chat.online_renderer.chat_template
    if template is None:
        template = getattr(chat.renderer.tokenizer, "chat_template", None)
    return ModelIdentity(
        root=chat.models.base_model_paths[0].model_path,
        num_layers=limits.num_layers,
        hidden_size=limits.hidden_size,
        weights=weights_fingerprint(
            config.model, config.revision, chat.engine_client.vllm_config.load_config
        ),
        chat_template=None if template is None else _hashed(template),
    )


def _hashed(template: Any) -> str:
    """Of a tokenizer with several templates, all of them count."""
    text = template if isinstance(template, str) else json.dumps(template, sort_keys=True)
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def fitted_for(folder: str, served: ModelIdentity | None, obstacle: str | None) -> Fitted:
    """The fit in a folder.

    Args:
        served: None where the served model gives no hidden states.
        obstacle: why it gives none.

    Raises:
        SettingsError: it cannot be read, or is of no use to the served model.
    """
    if served is None:
        raise SettingsError(f"--fitted {folder}: {obstacle}")
    try:
        fitted = load_fitted(Path(folder))
    except FittedError as error:
        raise SettingsError(f"--fitted: {error}") from error
    if reason := fitted.model.difference(served):
        raise SettingsError(f"--fitted {folder}: {reason}")
    return fitted
