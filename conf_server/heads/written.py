"""Writing a trained head in luh's format, and what `conf-server fit` notes beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from conf_server.heads.luh_config import CONFIG, HeadError, LuhConfig, as_yaml
from conf_server.uncertainty.fitted import ModelIdentity

NOTES: Final = "fit.json"
"""What luh's own heads lack: the model that the head was trained on, and how."""


def write_head(
    folder: Path,
    config: LuhConfig,
    weights: Mapping[str, Any],
    model: ModelIdentity,
    facts: Mapping[str, Any],
) -> None:
    """Write a head, in place of one that is there.

    Args:
        weights: tensors of torch by the names of the network's parameters.
        facts: plain JSON.

    Raises:
        OSError: nothing can be written there.
    """
    from safetensors.torch import save

    from conf_server.heads.loading import SAFETENSORS

    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).write_text(as_yaml(config), encoding="utf-8")
    # Not by save_file, which lets nobody else read what it writes: a service is another user.
    content = save({name: tensor.contiguous() for name, tensor in weights.items()})
    (folder / SAFETENSORS).write_bytes(content)
    notes = {"model": asdict(model), **facts}
    (folder / NOTES).write_text(json.dumps(notes, indent=2) + "\n", encoding="utf-8")


def trained_on(folder: Path) -> ModelIdentity | None:
    """The model that a head was trained on; None of a head that does not say it, as luh's do not.

    Raises:
        HeadError: the notes are damaged.
    """
    path = folder / NOTES
    if not path.exists():
        return None
    try:
        return ModelIdentity(**json.loads(path.read_bytes())["model"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise HeadError(f"{NOTES} is damaged: {error}") from error
