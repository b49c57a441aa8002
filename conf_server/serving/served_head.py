"""The head of --uhead and the model that is served."""

from __future__ import annotations

from pathlib import Path

from conf_server.heads.features import ModelShape
from conf_server.heads.loading import check_head, load_head
from conf_server.heads.luh_config import HeadError
from conf_server.heads.uncertainty_head import UncertaintyHead
from conf_server.heads.written import trained_on
from conf_server.settings import ConfidenceSettings, SettingsError
from conf_server.uncertainty.fitted import ModelIdentity


def check_served_head(settings: ConfidenceSettings, shape: ModelShape) -> None:
    """Find out whether there is a head, and whether it is one of the model.

    Args:
        shape: of a model that need not be loaded.

    Raises:
        SettingsError: saying why it is of no use.
    """
    if settings.uhead is None:
        return
    try:
        features = check_head(Path(settings.uhead), shape)
    except HeadError as error:
        raise SettingsError(f"--uhead {settings.uhead}: {error}") from error
    if features.reads_layers and not (settings.enable_hidden_states or settings.scorer):
        raise SettingsError(
            f"--uhead {settings.uhead}: the head reads the model's layers, which needs "
            "--enable-hidden-states"
        )


def served_head(
    settings: ConfidenceSettings, shape: ModelShape, identity: ModelIdentity | None
) -> UncertaintyHead | None:
    """The head; None where no flag names one.

    Args:
        identity: of the served model; None where it is not known.

    Raises:
        SettingsError: saying why it is of no use.
    """
    if settings.uhead is None:
        return None
    limit = settings.max_hidden_state_values
    folder = Path(settings.uhead)
    try:
        model = trained_on(folder)
        if model and identity and (reason := model.difference(identity)):
            raise HeadError(reason.replace("fitted", "trained"))
        return load_head(folder, shape, limit)
    except HeadError as error:
        raise SettingsError(f"--uhead {settings.uhead}: {error}") from error
