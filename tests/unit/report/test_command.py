"""conf-server report: what is read, what is said, what is drawn."""

from __future__ import annotations

import gzip
import json
import math
import random
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from conf_server.report.answers import ReportError, read_answers
from conf_server.report.command import main
from conf_server.report.evaluation_metrics import Levels, auroc, bootstrap_intervals, prr
from conf_server.report.figures import method_figures

pytest.importorskip("matplotlib", reason="matplotlib is not installed: the extra `report`")


def uncertainty(line: int = 1, text: str = "Paris.", **fields: Any) -> dict[str, Any]:
    """A line of `conf-server uncertainty`; `estimates` by name, value or the whole object."""
    given = fields.pop("estimates", {"perplexity": 0.5})
    estimates = {
        name: value
        if isinstance(value, dict)
        else {"value": value, "exact": True, "higher_is": "more uncertain"}
        for name, value in given.items()
    }
    unavailable = fields.pop("unavailable", None)
    result = {
        "object": "uncertainty",
        "model": "m",
        "answer": {"text": text},
        "estimates": estimates,
        "unavailable": unavailable,
    }
    return {"line": line, "request": "1", **fields, "result": result}


def scored(*data: dict[str, Any], **fields: Any) -> dict[str, Any]:
    result = {"object": "score", "model": "m", "data": list(data)}
    return {"line": 1, "request": "1", **fields, "result": result}


def write(folder: Path, *lines: Any, name: str = "out.jsonl") -> str:
    path = folder / name
    text = "".join(json.dumps(line) + "\n" for line in lines)
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return str(path)


def good_lines(count: int = 80) -> list[dict[str, Any]]:
    rng = random.Random(1)
    lines = []
    for number in range(1, count + 1):
        correct = rng.random() < 0.6
        unsure = abs(rng.gauss(0.3 if correct else 1.0, 0.4))
        estimates = {
            "perplexity": math.exp(unsure),
            "semantic_entropy": round(unsure + rng.gauss(0, 0.3), 1),
            "surety": {"value": -unsure, "exact": True, "higher_is": "less uncertain"},
        }
        lines.append(uncertainty(number, correct=correct, estimates=estimates))
    return lines


class Page(HTMLParser):
    """What a page is made of."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.rows: list[list[str]] = []
        self._cell = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag == "tr":
            self.rows.append([])
        self._cell = tag in ("td", "th")
        if self._cell:
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        self._cell = self._cell and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self._cell:
            self.rows[-1][-1] += data


def report(folder: Path, *lines: Any, flags: tuple[str, ...] = ()) -> Page:
    path = write(folder, *lines)
    assert main([path, "-o", str(folder / "r.html"), *flags]) == 0
    return Page((folder / "r.html").read_text())


def labels(folder: Path, *lines: Any, match: Any = "exact") -> list[bool | None]:
    return read_answers(write(folder, *lines), match).correct


# The page


def test_the_table_has_the_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = good_lines()
    page = report(tmp_path, *lines)
    u = [line["result"]["estimates"]["perplexity"]["value"] for line in lines]
    wrong = [not line["correct"] for line in lines]
    rows = {row[0]: row for row in page.rows}
    assert rows["perplexity"][1:5] == ["less sure", "80", "80", f"{np.mean(u):.4g}"]
    for cell, metric in zip(rows["perplexity"][5:7], (auroc, prr), strict=True):
        (interval,) = bootstrap_intervals([metric], u, wrong)
        assert interval is not None
        assert cell == "{:.3f} [{:.3f}, {:.3f}]".format(metric(Levels.of(u, wrong)), *interval)
    assert 0 < float(rows["perplexity"][7]) < 1
    assert rows["semantic_entropy"][7] == "–"
    # The same numbers turned around, and said so.
    assert rows["surety"][1] == "surer"
    assert rows["surety"][5:7] == rows["perplexity"][5:7]
    assert float(rows["surety"][4]) < 0
    out = capsys.readouterr().out
    assert rows["perplexity"][5] in out
    assert "80 answers, 80 with a label" in out


def test_the_page_is_one_file(tmp_path: Path) -> None:
    page = report(tmp_path, *good_lines())
    assert page.tags.count("svg") == 3 * 3 + 1
    assert "script" not in page.tags
    assert all(link.startswith(("#", "data:")) for link in page.links)
    text = (tmp_path / "r.html").read_text()
    assert "prefers-color-scheme: dark" in text
    assert 'name="viewport"' in text
    for element in text.split("<svg ")[1:]:
        ElementTree.fromstring("<svg " + element.split("</svg>")[0] + "</svg>")


def test_the_same_file_gives_the_same_page(tmp_path: Path) -> None:
    lines = good_lines()
    report(tmp_path, *lines)
    first = (tmp_path / "r.html").read_bytes()
    report(tmp_path, *lines)
    assert (tmp_path / "r.html").read_bytes() == first
    report(tmp_path, *lines, flags=("--seed", "5"))
    assert (tmp_path / "r.html").read_bytes() != first


def test_names_from_the_file_are_no_markup(tmp_path: Path) -> None:
    name = '<img src="x"> $\\frac$'
    lines = [uncertainty(estimates={name: n}, correct=n > 2) for n in range(5)]
    page = report(tmp_path, *lines, flags=("--title", "<img>", "--png", str(tmp_path / "p")))
    assert "img" not in page.tags
    assert page.rows[1][0] == name


def test_plots_as_png(tmp_path: Path) -> None:
    report(tmp_path, *good_lines(), flags=("--png", str(tmp_path / "plots")))
    found = sorted(path.name for path in (tmp_path / "plots").iterdir())
    assert len(found) == 3 * 3 + 1
    assert "correlations.png" in found
    assert "perplexity_risk-coverage.png" in found
    for path in (tmp_path / "plots").iterdir():
        assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "values", [[0.3, 0.30000000000000004], [0.0, 1e-17], [1e17, 1e17 + 16], [-5.0, -5.0]]
)
def test_one_level_is_drawn_and_not_ranked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], values: list[float]
) -> None:
    lines = [uncertainty(estimates={"a": value}, correct=value > min(values)) for value in values]
    page = report(tmp_path, *lines, uncertainty(estimates={"a": values[0]}, correct=True))
    assert page.tags.count("svg") == 3
    assert page.rows[1][5:7] == ["–", "–"]
    assert "no AUROC: all values are equal" in capsys.readouterr().out


def test_the_bar_can_be_asked_for(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    report(tmp_path, *good_lines(9), flags=("--progress",))
    assert "3/3" in capfd.readouterr().err
    report(tmp_path, *good_lines(9))
    assert capfd.readouterr().err == ""


# What is not there


def test_without_labels_it_says_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [uncertainty(estimates={"a": n, "b": -n}) for n in range(9)]
    page = report(tmp_path, *lines)
    assert [row[5:] for row in page.rows[1:]] == [["–"] * 3] * 2
    assert page.tags.count("svg") == 3
    out = capsys.readouterr().out
    assert "9 answers, none with a label" in out
    assert "9 without a label: neither `correct` nor `reference`." in out


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ([uncertainty(estimates={"a": n}, correct=True) for n in range(9)], "no wrong answer"),
        ([uncertainty(estimates={"a": n}, correct=False) for n in range(9)], "no correct answer"),
        (
            [uncertainty(estimates={"a": 1}, correct=n > 3) for n in range(9)],
            "all values are equal",
        ),
        ([uncertainty(estimates={"a": None}, correct=n > 3) for n in range(9)], "no labelled"),
    ],
)
def test_undefined_figures_have_a_reason_and_no_number(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], lines: list[Any], reason: str
) -> None:
    page = report(tmp_path, *lines)
    assert page.rows[1][5:7] == ["–", "–"]
    out = capsys.readouterr().out
    assert f"no AUROC: {reason}" in out
    assert f"no PRR: {reason}" in out


def test_one_wrong_answer_has_a_figure_without_an_interval(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [uncertainty(estimates={"a": n}, correct=n != 7) for n in range(9)]
    page = report(tmp_path, *lines)
    assert page.rows[1][5] == "0.875 [–]"
    assert "no interval of AUROC: too few answers of one class" in capsys.readouterr().out


def test_each_method_counts_the_answers_that_it_has(tmp_path: Path) -> None:
    lines = [
        uncertainty(estimates={"a": 1}, correct=True),
        uncertainty(estimates={"a": 2, "late": 5}, correct=False),
        uncertainty(estimates={"a": None, "late": 3}, correct=None),
        uncertainty(estimates={"a": 4}),
    ]
    answers = read_answers(write(tmp_path, *lines), "exact")
    found = {one.name: one for one in method_figures(answers, 0, resamples=10)}
    assert {name: (one.values.size, one.labelled) for name, one in found.items()} == {
        "a": (3, 2),
        "late": (2, 1),
    }
    assert found["a"].values.tolist() == [1, 2, 4]
    assert found["late"].values.tolist() == [5, 3]


def test_failures_inexact_values_and_absent_methods_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    inexact = {"value": 2.0, "exact": False, "higher_is": "more uncertain"}
    lines = [
        uncertainty(estimates={"a": inexact}, unavailable={"p_true": "no chat template"}),
        uncertainty(estimates={"a": 1.0}),
        {"line": 3, "error": {"message": "x"}},
    ]
    page = report(tmp_path, *lines)
    assert page.rows[1][0] == "a*"
    out = capsys.readouterr().out
    assert "not exact by the server: a 1 of 2." in out
    assert "Failed lines, which are not in here: 1." in out
    assert "p_true was not available for 1 answers: no chat template" in out


def test_ece_only_of_what_is_a_probability(tmp_path: Path) -> None:
    estimates = {"maximum_sequence_probability": 0.0, "p_true": 0.0, "perplexity": 0.5, "sar": 0.5}
    lines = [uncertainty(estimates=estimates, correct=n < 3) for n in range(4)]
    cells = {row[0]: row[7] for row in report(tmp_path, *lines).rows}
    assert cells["maximum_sequence_probability"] == "0.250"
    assert cells["p_true"] == "0.250"
    assert cells["perplexity"] == "–"  # 1 / 0.5 is no probability
    assert cells["sar"] == "–"


@pytest.mark.parametrize(
    ("name", "value", "confidence"),
    [("perplexity", 4.0, 0.25), ("p_true", math.log(4), 0.25), ("deg_mat", 0.75, 0.25)],
)
def test_what_confidence_a_value_stands_for(
    tmp_path: Path, name: str, value: float, confidence: float
) -> None:
    lines = [uncertainty(estimates={name: value}, correct=True) for _ in range(4)]
    (row,) = (row for row in report(tmp_path, *lines).rows if row[0] == name)
    assert row[7] == f"{1 - confidence:.3f}"


def test_a_huge_perplexity_ties_no_others(tmp_path: Path) -> None:
    lines = [
        uncertainty(estimates={"perplexity": value}, correct=correct)
        for value, correct in ((1.25, True), (1.5, False), (1e13, False))
    ]
    (row,) = (row for row in report(tmp_path, *lines).rows if row[0] == "perplexity")
    assert row[5].startswith("1.000")


# Scores


def test_scores_of_several_completions(tmp_path: Path) -> None:
    data = [
        {
            "uncertainty": {
                "perplexity": {"value": n, "exact": True},
                "fisher_rao": {"value": None, "exact": False},
            },
            "confidence_summary": {"mean_confidence": 9 - n},
        }
        for n in range(3)
    ]
    answers = read_answers(write(tmp_path, scored(*data, correct=[True, False, None])), "exact")
    assert answers.correct == [True, False, None]
    assert answers.columns["perplexity"].uncertainty().tolist() == [0, 1, 2]
    assert answers.columns["mean_confidence"].uncertainty().tolist() == [-9, -8, -7]
    assert answers.columns["fisher_rao"].sign == 1
    assert np.isnan(answers.columns["fisher_rao"].uncertainty()).all()


def test_completions_are_held_against_the_reference(tmp_path: Path) -> None:
    data = [{"uncertainty": {"perplexity": {"value": n, "exact": True}}} for n in range(2)]
    texts = [" Paris.", " Berlin."]
    assert labels(tmp_path, scored(*data, completions=texts, reference="paris")) == [True, False]
    assert labels(tmp_path, scored(data[0], completion=" Paris", reference=["x", "Paris"])) == [
        True
    ]
    assert labels(tmp_path, scored(data[0], completion=[1, 2], reference="Paris")) == [None]


# Labels


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"correct": True}, True),
        ({"correct": False, "reference": "Paris"}, False),
        ({"correct": None, "reference": "Paris"}, True),
        ({"reference": ["London", "paris"]}, True),
        ({"reference": "London"}, False),
        ({"reference": []}, None),
        ({}, None),
    ],
)
def test_labels(tmp_path: Path, fields: dict[str, Any], expected: bool | None) -> None:
    assert labels(tmp_path, uncertainty(**fields)) == [expected]


def test_the_match_can_be_chosen(tmp_path: Path) -> None:
    line = uncertainty(text="It is Paris, of course.", reference="Paris")
    assert labels(tmp_path, line) == [False]
    assert labels(tmp_path, line, match="contains") == [True]


# Files that are not what they should be


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (uncertainty(correct="yes"), "`correct` must be true or false"),
        (uncertainty(correct=1), "`correct` must be true or false"),
        (uncertainty(reference=5), "`reference` must be a text"),
        (uncertainty(reference="?"), "nothing to compare"),
        (scored({}, {}, correct=True), "give a list"),
        (uncertainty(estimates={"a": "high"}), "'high' is not a number"),
        ({"line": 1, "result": {"object": "list"}}, "object 'list' is neither"),
        ({"line": 1}, "no 'result'"),
        ([1], "not a JSON object"),
    ],
)
def test_a_line_that_cannot_be_meant_is_named(tmp_path: Path, line: Any, message: str) -> None:
    path = write(tmp_path, uncertainty(), line)
    with pytest.raises(ReportError, match="line 2") as refused:
        read_answers(path, "exact")
    assert message in str(refused.value)


def test_a_method_keeps_its_direction(tmp_path: Path) -> None:
    turned = {"a": {"value": 1, "exact": True, "higher_is": "less uncertain"}}
    path = write(tmp_path, uncertainty(estimates={"a": 1}), uncertainty(estimates=turned))
    with pytest.raises(ReportError, match="higher_is differs"):
        read_answers(path, "exact")


def test_errors_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main([str(tmp_path / "none.jsonl")]) == 2
    assert main([write(tmp_path, {"line": 1, "error": {}}), "-o", str(tmp_path / "r")]) == 2
    good = write(tmp_path, *good_lines(9))
    assert main([good, "-o", str(tmp_path / "no" / "r.html")]) == 2
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main([good, "-o", str(tmp_path / "r.html")]) == 2
    none, empty, folder, missing = capsys.readouterr().err.splitlines()
    assert none.startswith("conf-server report: error: ")
    assert none.endswith("none.jsonl: No such file or directory")
    assert empty.endswith("no estimates in it (1 failed lines)")
    assert folder.endswith("r.html: No such file or directory")
    assert missing.endswith("matplotlib is not installed: pip install 'conf-server[report]'")


def test_gzip(tmp_path: Path) -> None:
    path = write(tmp_path, *good_lines(9), name="out.jsonl.gz")
    assert len(read_answers(path, "exact")) == 9
    Path(path).write_bytes(Path(path).read_bytes()[:-20])
    with pytest.raises(ReportError, match=r"out\.jsonl\.gz"):
        read_answers(path, "exact")


def test_a_damaged_member(tmp_path: Path) -> None:
    path = write(tmp_path, *good_lines(9), name="out.jsonl.gz")
    damaged = bytearray(Path(path).read_bytes())
    damaged[60] ^= 0xFF
    Path(path).write_bytes(damaged)
    with pytest.raises(ReportError, match=r"out\.jsonl\.gz: "):
        read_answers(path, "exact")


@pytest.mark.parametrize("linked", [False, True])
def test_the_page_does_not_replace_the_answers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], linked: bool
) -> None:
    path = write(tmp_path, *good_lines(9))
    before = Path(path).read_bytes()
    page = tmp_path / "link" if linked else Path(path)
    if linked:
        page.symlink_to(path)
    assert main([path, "-o", str(page)]) == 2
    assert "it is the input" in capsys.readouterr().err
    assert Path(path).read_bytes() == before
