"""What the served model is, so that a fit of its hidden states is not used with another one."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from conf_server.settings import SettingsError
from conf_server.uncertainty.fitted import Fitted, ModelIdentity
from conf_server.uncertainty.fitted_file import FittedError, load_fitted


def hashed_template(template: Any) -> str | None:
    """What an identity says of a tokenizer's template, or of its templates, which all count."""
    if template is None:
        return None
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
