"""evaluation: labels of answers, and cross-validation of what a fit has kept."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from evaluation import fitted_methods, labelled_answers, questions
from tests.unit.fit.states_server import Fit, StatesServer, lines

METHODS = ("mahalanobis_distance", "relative_mahalanobis_distance", "ppl_md", "linear_probe")
LOOKBACK = "lookback_lens"


@pytest.fixture
def server() -> Iterator[StatesServer]:
    with StatesServer() as server:
        yield server


def test_an_answer_is_right_when_the_reference_stands_in_it(tmp_path: Path) -> None:
    asked = [*questions.lines()][:3]
    answers = ["It is Paris.", "It is Paris.", None]
    estimates = [
        {"id": line["id"], "reference": line["reference"]}
        | ({"error": {}} if text is None else {"result": {"answer": {"text": text}}})
        for line, text in zip(asked, answers, strict=True)
    ]
    files = tmp_path / "questions", tmp_path / "estimates"
    for file, written in zip(files, (asked, estimates), strict=True):
        file.write_text("".join(json.dumps(line) + "\n" for line in written))
    france, germany = labelled_answers.labelled(*files)
    assert (france["correct"], germany["correct"]) == (True, False)
    assert france["completion"] == "It is Paris."
    assert france["messages"] == asked[0]["messages"]


def test_each_part_is_estimated_by_what_the_others_have_taught(
    server: StatesServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fit = Fit(tmp_path, server)
    fit.write(*lines(60))
    fit.write(*lines(40), path=fit.background)
    words = ["--methods", ",".join((*METHODS, LOOKBACK)), "--background", str(fit.background)]
    assert fit.run(*words, "--keep-states") == 0
    capsys.readouterr()
    fitted_methods.main([str(fit.train), "-o", str(fit.folder), "--url", server.url, *words])
    _, _, *rows = capsys.readouterr().out.splitlines()
    assert [row.split("`")[1] for row in rows] == [*METHODS, LOOKBACK]
    auroc = {row.split("`")[1]: float(row.split("| ")[3].split(" [")[0]) for row in rows}
    # The states say what is right to the two that learn from labels, and are noise to the others.
    assert auroc["linear_probe"] > 0.95
    assert auroc[LOOKBACK] > 0.95
    assert all(0.2 < auroc[name] < 0.8 for name in METHODS[:3])


def test_no_label_that_is_estimated_has_been_learned(
    server: StatesServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Labels that follow from nothing are at chance, although a probe learns its own by heart."""
    fit = Fit(tmp_path, server)
    drawn = np.random.default_rng(0).integers(2, size=60).astype(bool).tolist()
    fit.write(*({"prompt": f"p{n}", "completion": " x", "correct": c} for n, c in enumerate(drawn)))
    words = ["--methods", "saplma", "--epochs", "100"]
    assert fit.run(*words, "--keep-states") == 0
    capsys.readouterr()
    fitted_methods.main([str(fit.train), "-o", str(fit.folder), "--url", server.url, *words])
    row = capsys.readouterr().out.splitlines()[-1]
    assert 0.2 < float(row.split("| ")[3].split(" [")[0]) < 0.8
