"""Two files or more: side by side, and paired where the questions are the same."""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from conf_server.report.command import main
from tests.unit.report.files import uncertainty, write
from tests.unit.report.pages import Page


def answers(seed: int, noise: float, count: int = 80, **fields: Any) -> list[dict[str, Any]]:
    """Answers to the same questions, and a method that sees the wrong ones through noise."""
    hard, rng = random.Random(0), random.Random(seed)
    lines = []
    for n in range(count):
        wrong = hard.random() + rng.gauss(0, 0.1) < 0.4
        estimates = {"a": wrong + rng.gauss(0, noise)}
        lines.append(uncertainty(correct=not wrong, estimates=estimates, id=n, **fields))
    return lines


def compare(folder: Path, *files: list[dict[str, Any]], flags: tuple[str, ...] = ()) -> Page:
    paths = [
        write(folder, *lines, name=f"{name}.jsonl")
        for name, lines in zip("xyz", files, strict=False)
    ]
    assert main([*paths, "-o", str(folder / "r.html"), *flags]) == 0
    return Page((folder / "r.html").read_text())


def values(lines: list[dict[str, Any]]) -> tuple[list[bool], list[float]]:
    wrong = [not line["correct"] for line in lines]
    return wrong, [line["result"]["estimates"]["a"]["value"] for line in lines]


def test_figures_of_each_file_and_their_difference(tmp_path: Path) -> None:
    first, second = answers(1, 0.5), answers(2, 2.0)
    page = compare(tmp_path, first, second)
    assert page.rows[0] == ["method", "x", "y", "y - x"]
    row = page.rows[1]
    areas = [roc_auc_score(*values(lines)) for lines in (first, second)]
    assert [cell.split()[0] for cell in row[1:3]] == [f"{area:.3f}" for area in areas]
    assert row[3].split()[0] == f"{areas[1] - areas[0]:+.3f}"
    assert "AUROC in y is lower for a than in x" in page.text


def test_the_interval_of_a_paired_difference_is_that_of_a_slow_bootstrap(tmp_path: Path) -> None:
    first, second = answers(1, 0.7), answers(2, 0.9)
    row = compare(tmp_path, first, second, flags=("--seed", "3")).rows[1]
    draws = np.random.default_rng(3)
    found = []
    for _ in range(1000):
        rows = draws.integers(80, size=80)
        wrong_x, x = (np.array(one)[rows] for one in values(first))
        wrong_y, y = (np.array(one)[rows] for one in values(second))
        found.append(roc_auc_score(wrong_y, y) - roc_auc_score(wrong_x, x))
    low, high = np.quantile(found, [0.025, 0.975])
    assert row[3].endswith(f"[{low:+.3f}, {high:+.3f}]")


def test_pairs_are_of_questions_whatever_their_order(tmp_path: Path) -> None:
    first = answers(1, 0.7)
    turned = [{**line, "line": n} for n, line in enumerate(first[::-1][:50], 1)]
    page = compare(tmp_path, first, turned)
    assert "paired by id, over the 50 labelled answers" in page.text
    assert page.rows[1][3] == "+0.000 [+0.000, +0.000]"
    assert page.by_class["claim"][0].startswith("y and x are right on the same answers, ")


def test_what_pairs_and_what_does_not(tmp_path: Path) -> None:
    def first(**fields: Any) -> list[dict[str, Any]]:
        lines = answers(1, 0.7)
        return [{k: v for k, v in line.items() if k != "id"} | fields for line in lines]

    named = [line | {"prompt": f"Why {n}?"} for n, line in enumerate(first())]
    assert "paired by question, over the 80" in compare(tmp_path, named, named).text
    referred = [line | {"reference": f"r{n}"} for n, line in enumerate(first())]
    assert "paired by line and reference, over the 80" in compare(tmp_path, referred, referred).text
    twice = [line | {"prompt": "Why?"} for line in first()]
    page = compare(tmp_path, twice, twice)
    assert "no questions in common are known of" in page.text
    assert page.rows[1][3].startswith("+0.000 [-0.")


def test_unpaired_files_have_wider_intervals(tmp_path: Path) -> None:
    first, second = answers(1, 0.7), answers(2, 0.7)
    paired = compare(tmp_path, first, second)
    loose = compare(tmp_path, first, [line | {"id": f"other {n}"} for n, line in enumerate(second)])
    claims = [page.by_class["claim"][0] for page in (paired, loose)]
    spans = [re.search(r"\(([+-]\d+) to ([+-]\d+) points\)", claim) for claim in claims]
    widths = [int(span[2]) - int(span[1]) for span in spans if span]
    assert len(widths) == 2
    assert widths[0] < widths[1]


def test_more_right_answers(tmp_path: Path) -> None:
    first, second = answers(1, 0.7), answers(1, 0.7)
    for line in second[:20]:
        line["correct"] = True
    assert "y has more right answers than x: " in compare(tmp_path, first, second).text
    assert "y has fewer right answers than x: " in compare(tmp_path, second, first).text


def test_each_file_has_a_folded_report_of_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = compare(tmp_path, *(answers(n, 0.7) for n in range(3)), flags=("--png", str(tmp_path)))
    assert page.rows[0][1:] == ["x", "y", "z", "y - x", "z - x"]
    assert page.open_folds == 0
    assert [one.split()[0] for one in page.by_class["part"]][:3] == ["x", "y", "z"]
    assert page.text.count("Most confident, and wrong") == 6
    assert (tmp_path / "comparison.png").exists()
    assert (tmp_path / "y" / "a_reliability.png").exists()
    assert capsys.readouterr().out.count("80 answers, 80 with a label") == 3


def test_files_of_one_name_have_their_paths(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    paths = [write(folder, *answers(1, 1)) for folder in (tmp_path, tmp_path / "other")]
    assert main([*paths, "-o", str(tmp_path / "r.html")]) == 0
    assert Page((tmp_path / "r.html").read_text()).rows[0][1:3] == paths


def test_one_comparison_with_references_for_all_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    short = [uncertainty(text="Paris", reference="Paris", estimates={"a": n}) for n in range(5)]
    long = [
        uncertainty(text=f"It is {'Paris' if n else 'Rome'}, I think", reference="Paris")
        for n in range(40)
    ]
    compare(tmp_path, short, long)
    assert capsys.readouterr().err.count("--match auto chose `contains`") == 1
