"""What vLLM says of a configuration that it refuses, in one line and with the right status."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
from pydantic import TypeAdapter

from conf_server.engine.client.start import LONGEST_REASON, configuring
from conf_server.settings import SettingsError, StartError


def refused(model: str, error: Exception) -> Exception:
    with pytest.raises((SettingsError, StartError)) as raised, configuring(model):
        raise error
    return raised.value


def test_a_value_that_cannot_be_meant_is_a_wrong_flag() -> None:
    error = refused("m", ValueError("the model\n  is too long"))
    assert isinstance(error, SettingsError)
    assert str(error) == "--model m: the model is too long"
    assert len(str(refused("m", ValueError("x" * 10_000)))) < LONGEST_REASON + 100


def test_of_pydantic_s_errors_the_first_is_told_without_its_input() -> None:
    with pytest.raises(ValueError, match="2 validation errors") as raised:
        TypeAdapter(dict[str, int]).validate_python({"max_num_seqs": "a", "other": "b"})
    said = str(refused("m", raised.value))
    assert said.startswith("--model m: max_num_seqs: Input should be a valid integer")
    assert "other" not in said


def test_a_hub_out_of_reach_is_no_wrong_flag(tmp_path: Path) -> None:
    assert isinstance(refused("org/m", OSError("no connection")), StartError)
    assert isinstance(refused("org/m", LocalEntryNotFoundError("offline")), StartError)
    assert isinstance(refused(str(tmp_path), OSError("damaged")), SettingsError)


def test_a_name_that_no_hub_has_is() -> None:
    error = OSError("repo id")
    error.__cause__ = HFValidationError("repo id")
    assert isinstance(refused("a/b/c", error), SettingsError)


def test_the_traceback_is_kept_for_those_who_look_for_it(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = logging.getLogger("vllm.conf_server.start")
    monkeypatch.setattr(log, "propagate", True)
    monkeypatch.setattr(logging.getLogger("vllm"), "propagate", True)
    with caplog.at_level(logging.DEBUG, log.name):
        refused("m", ValueError("x"))
    assert caplog.records[-1].exc_info
