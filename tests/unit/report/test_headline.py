"""What a report claims, and how carefully."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from conf_server.report.answers import Answer, Answers, Estimate
from conf_server.report.figures import method_figures
from conf_server.report.headline import headline
from conf_server.report.labels import Label
from conf_server.report.standing import is_at_chance, standing_of
from tests.unit.report.files import uncertainty
from tests.unit.report.pages import report


def answers(count: int, seed: int, **noise: float) -> list[dict[str, Any]]:
    """Answers of which 3 in 10 are wrong, and methods that see that through so much noise."""
    rng = random.Random(seed)
    lines = []
    for _ in range(count):
        wrong = rng.random() < 0.3
        values = {name: wrong + rng.gauss(0, width) for name, width in noise.items()}
        lines.append(uncertainty(correct=not wrong, estimates=values))
    return lines


def claim(folder: Path, lines: list[dict[str, Any]]) -> str:
    (found,) = report(folder, *lines).by_class["claim"]
    return found


def test_a_clear_winner_with_its_interval_and_what_it_is_worth(tmp_path: Path) -> None:
    lines = answers(300, 1, good=0.6, weak=3)
    wrong = [not line["correct"] for line in lines]
    good = [line["result"]["estimates"]["good"]["value"] for line in lines]
    surest = sorted(zip(good, wrong, strict=True))[:240]
    found = claim(tmp_path, lines)
    assert found.startswith(f"good ranks best (AUROC {roc_auc_score(wrong, good):.2f}, 0.")
    before, after = sum(wrong) / 300, sum(one for _, one in surest) / 240
    assert (
        f"Keeping the surest 80\N{NO-BREAK SPACE}% cuts errors from "
        f"{100 * before:.0f}\N{NO-BREAK SPACE}% to {100 * after:.0f}\N{NO-BREAK SPACE}% ("
    ).replace("\N{NO-BREAK SPACE}", " ") in found


def test_a_winner_that_is_not_told_from_the_next_is_not_called_the_best(tmp_path: Path) -> None:
    page = report(tmp_path, *answers(120, 2, one=0.8, other=0.8, weak=4))
    (found,) = page.by_class["claim"]
    assert " ranks first, but not clearly (AUROC " in found
    assert "best" not in found
    first = found.split()[0]
    (second,) = {"one", "other"} - {first}
    assert f"Not clearly worse on these answers: {second}." in page.text


def test_nothing_that_beats_chance_is_said_to(tmp_path: Path) -> None:
    noise = {f"n{place}": 100.0 for place in range(3)}
    page = report(tmp_path, *answers(60, 3, **noise))
    (found,) = page.by_class["claim"]
    assert found.startswith("No method is shown to tell wrong answers from right ones.")
    assert "ranks" not in found
    assert "errors" not in found


def test_the_best_of_many_useless_methods_is_rarely_believed() -> None:
    """By its own interval the best of thirty mostly beats chance; as the best it rarely does."""
    alone = together = 0
    for seed in range(12):
        rng = np.random.default_rng(seed)
        found = Answers()
        for n in range(50):
            estimates = {f"n{m}": Estimate(rng.normal(), True, 1) for m in range(30)}
            found.add(estimates, Answer(n, 0, None, None, None, Label((n < 20,))))
        found.judge("exact")
        methods = method_figures(found, seed, resamples=100)
        standing = standing_of(methods, found.labels(), seed)
        alone += standing.best is not None and not is_at_chance(standing.best)
        together += standing.beats_chance
        said = headline(found, standing).claim
        assert said.startswith("No method is shown") == (not standing.beats_chance)
    assert alone >= 8
    assert together <= 3


def test_one_method_is_not_ranked(tmp_path: Path) -> None:
    assert claim(tmp_path, answers(200, 1, only=0.6)).startswith(
        "only tells wrong answers from right ones (AUROC 0."
    )


def test_two_methods_of_one_order_are_two(tmp_path: Path) -> None:
    lines = answers(200, 1, one=0.6)
    for line in lines:
        estimates = line["result"]["estimates"]
        estimates["twin"] = estimates["one"] | {"value": 2 * estimates["one"]["value"]}
    assert claim(tmp_path, lines).startswith(
        "one and twin tell wrong answers from right ones (AUROC 0."
    )


def test_errors_that_stay_are_not_cut(tmp_path: Path) -> None:
    """A method that knows some right answers, in a hundredth of all, changes no whole percent."""
    lines = [
        uncertainty(correct=n < 196, estimates={"a": float(n >= 190 or n % 20 == 0)})
        for n in range(200)
    ]
    found = claim(tmp_path, lines)
    assert "leaves errors at" in found or "cuts errors from 2 % to 0 %" in found


@pytest.mark.parametrize(("correct", "word"), [(True, "right"), (False, "wrong")])
def test_one_class_alone(tmp_path: Path, correct: bool, word: str) -> None:
    lines = [uncertainty(estimates={"a": n}, correct=correct) for n in range(9)]
    assert claim(tmp_path, lines) == (
        f"All 9 labelled answers are {word}: there is nothing to tell apart."
    )


def test_no_label(tmp_path: Path) -> None:
    lines = [uncertainty(estimates={"a": n}) for n in range(9)]
    assert claim(tmp_path, lines).startswith("9 answers, none with a label")


def test_a_method_that_ranks_the_wrong_way_round_is_told(tmp_path: Path) -> None:
    lines = [uncertainty(estimates={"a": -n}, correct=n < 30) for n in range(60)]
    page = report(tmp_path, *lines)
    assert "a ranks the wrong way round: higher values are more often right." in page.text
