"""Without lm-eval, one line says what to install."""

from __future__ import annotations

import importlib
import sys

import pytest


def test_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    monkeypatch.delitem(sys.modules, "conf_server.integrations.lm_eval", raising=False)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'conf-server\[lm-eval\]'"):
        importlib.import_module("conf_server.integrations.lm_eval")
