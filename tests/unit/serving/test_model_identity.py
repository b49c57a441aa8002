"""Whether a fit may be used with the served model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from conf_server.serving.model_identity import fitted_for
from conf_server.settings import SettingsError
from conf_server.uncertainty.fitted_file import write_fitted
from tests.unit.uncertainty.fits import fit, model


def test_a_fit_of_the_served_model_is_used(tmp_path: Path) -> None:
    write_fitted(tmp_path, fit(), {})
    assert set(fitted_for(str(tmp_path), model(), None).methods) == set(fit().methods)


def test_a_fit_of_another_model_is_refused_by_the_flag(tmp_path: Path) -> None:
    write_fitted(tmp_path, fit(), {})
    with pytest.raises(SettingsError) as refused:
        fitted_for(str(tmp_path), replace(model(), hidden_size=8), None)
    assert str(refused.value).startswith(f"--fitted {tmp_path}: it was fitted on /models/m with")


def test_a_folder_without_a_fit_is_refused_by_the_flag(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"^--fitted: .*fitted\.json: No such file"):
        fitted_for(str(tmp_path), model(), None)


def test_a_model_without_hidden_states_has_no_use_for_a_fit(tmp_path: Path) -> None:
    write_fitted(tmp_path, fit(), {})
    with pytest.raises(SettingsError, match="pipeline parallelism"):
        fitted_for(str(tmp_path), None, "no hidden states under pipeline parallelism")
