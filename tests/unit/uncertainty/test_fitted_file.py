"""The folder of a fit: what is written comes back, and what cannot be trusted is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from conf_server.uncertainty.evidence import Evidence, Generation
from conf_server.uncertainty.fitted import (
    FITTABLE,
    Fitted,
    FittedMethod,
    LinearProbe,
    ModelIdentity,
    Pooled,
)
from conf_server.uncertainty.fitted_file import (
    ARRAYS,
    FACTS,
    FittedError,
    load_fitted,
    write_fitted,
)
from conf_server.uncertainty.registry import METHODS
from tests.unit.uncertainty.fits import fit, gaussian, model

STATE = np.array([0.3, -2.0, 1.0])


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    facts = json.loads((folder / FACTS).read_text())
    change(facts)
    (folder / FACTS).write_text(json.dumps(facts))


def values(fitted: Fitted) -> dict[str, Any]:
    states = {1: STATE, 2: STATE}
    evidence = Evidence(
        answer=Generation("", np.array([-0.7])),
        fitted=fitted,
        text_states=states,
        answer_states=states,
        last_states=states,
        lookback_ratios=np.array([0.1, 0.2, 0.6, 0.9]),
    )
    return {name: METHODS[name].estimate(evidence) for name in FITTABLE}


def test_what_is_written_estimates_the_same(tmp_path: Path) -> None:
    written = fit()
    write_fitted(tmp_path, written, {"data": {}})
    found = load_fitted(tmp_path)
    assert found.model == written.model
    assert values(found) == values(written)


def test_facts_are_readable_and_come_back(tmp_path: Path) -> None:
    probe = FittedMethod(1, 40, LinearProbe(np.ones(3), 0.0), {"auroc": 0.75})
    write_fitted(tmp_path, Fitted(model(), {"linear_probe": probe}), {"data": {"lines": 40}})
    facts = json.loads((tmp_path / FACTS).read_text())
    assert facts["data"] == {"lines": 40}
    (about,) = facts["methods"].values()
    assert about["auroc"] == 0.75
    assert (about["layer"], about["pooling"], about["texts"]) == (1, "last", 40)
    assert load_fitted(tmp_path).methods["linear_probe"].facts == {"auroc": 0.75}


def test_what_methods_share_is_written_once(tmp_path: Path) -> None:
    shared = gaussian(3)
    names = ("mahalanobis_distance", "mahalanobis_distance_answer")
    methods = {name: FittedMethod(2, 40, shared) for name in names}
    write_fitted(tmp_path, Fitted(model(), methods), {})
    assert len(load_file(tmp_path / ARRAYS)) == 2
    assert set(load_fitted(tmp_path).methods) == set(names)


BROKEN: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "another format": (lambda facts: facts.update(format=2), "format 2.*reads format 1"),
    "other arrays": (lambda facts: facts.update(arrays_sha256="0"), "not the file"),
    "no model": (lambda facts: facts.pop("model"), "no 'model' in it"),
    "a method of the future": (
        lambda facts: facts["methods"].update(magic=facts["methods"]["rde"]),
        "no method 'magic'",
    ),
    "a layer of another model": (
        lambda facts: facts["methods"]["rde"].update(layer=3),
        "rde: 3 is no layer of a model with 2",
    ),
    "another pooling": (
        lambda facts: facts["methods"]["rde"].update(pooling="last"),
        "rde: fitted on 'last', not",
    ),
    "no texts": (lambda facts: facts["methods"]["rde"].update(texts=0), "rde: 0 is no number"),
    "an array missing": (
        lambda facts: facts["methods"]["rde"]["arrays"].pop("gamma"),
        "no 'gamma' in it",
    ),
    "arrays that do not fit": (
        lambda facts: facts["methods"]["rde"]["arrays"].update(row_means="rde.robust.mean"),
        r"row means of shape \(2,\)",
    ),
    "another width": (
        lambda facts: facts["model"].update(hidden_size=4),
        "fitted on 3 numbers, the model has 4",
    ),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_folder_that_does_not_add_up_is_refused(tmp_path: Path, what: str) -> None:
    change, reason = BROKEN[what]
    write_fitted(tmp_path, fit(), {})
    edit(tmp_path, change)
    with pytest.raises(FittedError, match=reason) as refused:
        load_fitted(tmp_path)
    assert str(refused.value).startswith(str(tmp_path))


@pytest.mark.parametrize("name", [FACTS, ARRAYS])
def test_a_file_that_is_missing_or_cut_is_refused(tmp_path: Path, name: str) -> None:
    write_fitted(tmp_path, fit(), {})
    path = tmp_path / name
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(FittedError, match=re.escape(str(path))):
        load_fitted(tmp_path)
    path.unlink()
    with pytest.raises(FittedError, match=re.escape(str(path))):
        load_fitted(tmp_path)


def test_numbers_that_are_none_are_refused(tmp_path: Path) -> None:
    probe = FittedMethod(1, 40, LinearProbe(np.array([1.0, np.nan, 0.0]), 0.0))
    write_fitted(tmp_path, Fitted(model(), {"linear_probe": probe}), {})
    with pytest.raises(FittedError, match="linear_probe: weight has numbers that are none"):
        load_fitted(tmp_path)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"hidden_size": 4}, "hidden states of 3 numbers"),
        ({"num_layers": 5}, "2 layers, .* has 5"),
        ({"weights": "sha256:others"}, "weights"),
        ({"weights": None}, "weights"),
        ({"chat_template": None}, "another chat template"),
    ],
)
def test_another_model_is_told_apart(changes: dict[str, Any], reason: str) -> None:
    found = model().difference(replace(model(), **changes))
    assert found is not None
    assert re.search(reason, found)


def test_the_same_weights_in_another_folder_are_the_same_model() -> None:
    assert model().difference(replace(model(), root="/elsewhere")) is None
    unknown = replace(model(), weights=None)
    assert unknown.difference(unknown) is None
    assert unknown.difference(replace(unknown, root="/elsewhere")) is not None


def test_a_fit_knows_which_layers_its_methods_read() -> None:
    fitted = fit(num_layers=4)
    assert fitted.layers(frozenset(FITTABLE), Pooled.LAST) == (1,)
    assert fitted.layers(frozenset({"rde", "ppl_md", "saplma"}), Pooled.TEXT) == (4,)
    assert fitted.layers(frozenset({"saplma"}), Pooled.TEXT) == ()


def test_the_identity_has_no_defaults() -> None:
    with pytest.raises(TypeError):
        ModelIdentity("/models/m", 2, 3)  # type: ignore[call-arg]
