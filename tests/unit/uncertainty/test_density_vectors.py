"""Density methods against numbers that lm-polygraph 0.7.0 has made of the embedded model's states.

They are learned here from the recorded states of the texts that it was given, as it learns them,
and estimate what it estimated.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest

from conf_server.fit.density import kernel_density, ranked
from conf_server.fit.moments import Moments, gaussian
from conf_server.uncertainty.evidence import Evidence, Generation
from conf_server.uncertainty.fitted import (
    FITTABLE,
    Fitted,
    FittedMethod,
    Gaussian,
    Learned,
    Learner,
    RelativeGaussian,
)
from conf_server.uncertainty.registry import METHODS
from tests.unit.uncertainty.fits import model

VECTORS: Final[dict[str, Any]] = json.loads(
    (Path(__file__).parent / "vectors/density.json").read_text()
)
STATES = {name: np.array(rows) for name, rows in VECTORS["states"].items()}
NUM_COMPONENTS = 100


def distribution(corpus: str) -> Gaussian:
    return gaussian(Moments.of(lambda: [STATES[corpus]]), "jitter")[0]


def learned(learner: Learner) -> Learned:
    if learner is Learner.GAUSSIAN:
        return distribution("train")
    if learner is Learner.RELATIVE:
        return RelativeGaussian(distribution("train"), distribution("background"))
    if learner is Learner.KERNEL:
        return kernel_density(STATES["train"], NUM_COMPONENTS)
    surprises = VECTORS["negative_mean_logprobs"]
    return ranked(
        distribution("train"), lambda: [STATES["train"]], len(surprises), surprises, "jitter"
    )


@pytest.mark.parametrize("suffix", ["", "_answer"])
@pytest.mark.parametrize("name", VECTORS["values"])
def test_the_numbers_are_lm_polygraphs(name: str, suffix: str) -> None:
    method = FittedMethod(30, 240, learned(FITTABLE[name].learner))
    fitted = Fitted(model(), {name + suffix: method})
    found = []
    for state, logprobs in zip(STATES["eval"], VECTORS["logprobs"], strict=True):
        evidence = Evidence(
            answer=Generation("", np.array(logprobs)),
            fitted=fitted,
            **{"answer_states" if suffix else "text_states": {30: state}},
        )
        found.append(METHODS[name + suffix].estimate(evidence))
    values = [estimate.value for estimate in found]
    assert values == pytest.approx(VECTORS["values"][name], rel=1e-4)
    assert len(set(values)) > 4
    assert found[0].details == {"layer": 30, "texts": 240}


def test_the_distances_that_are_ranked_among_are_lm_polygraphs() -> None:
    ranks = learned(Learner.RANKED)
    assert VECTORS["version"] == "0.7.0"
    assert ranks.distances == pytest.approx(np.sort(VECTORS["held_out_distances"]), rel=1e-4)
