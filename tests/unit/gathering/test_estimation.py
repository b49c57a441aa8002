"""From evidence to estimates."""

from __future__ import annotations

from concurrent.futures import CancelledError
from typing import Any

import pytest

from conf_server.gathering.estimation import estimate_all
from conf_server.gathering.gather import Gathered
from conf_server.gathering.plan import Plan
from conf_server.uncertainty.estimate import Estimate
from conf_server.uncertainty.evidence import Evidence
from conf_server.uncertainty.registry import Method


def test_no_estimate_is_made_for_nobody() -> None:
    made: list[str] = []

    def method(name: str) -> Method:
        def estimate(evidence: Evidence) -> Estimate:
            made.append(name)
            return Estimate(0.5)

        return Method(name, frozenset(), estimate, "", "")

    plan = Plan((method("first"), method("second")), {}, None, 0)
    nothing: Any = None
    gathered = Gathered(Evidence(), nothing, (), {}, frozenset(), "")
    with pytest.raises(CancelledError):
        estimate_all(plan, gathered, lambda: bool(made))
    assert made == ["first"]
