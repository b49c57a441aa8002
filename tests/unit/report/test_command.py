"""conf-server report: what is printed, what is written, what is refused."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conf_server.report.command import main
from conf_server.report.evaluation_metrics import Levels, auroc, prr
from conf_server.report.resampling import bootstrap_intervals
from tests.unit.report.files import good_lines, uncertainty, write
from tests.unit.report.pages import report


def test_the_table_has_the_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = good_lines()
    page = report(tmp_path, *lines)
    u = [line["result"]["estimates"]["perplexity"]["value"] for line in lines]
    wrong = [not line["correct"] for line in lines]
    row = page.row("perplexity")
    assert row[5:] == [f"{np.mean(u):.4g}", "80", "80", "less sure"]
    for cell, metric in zip(row[1:3], (auroc, prr), strict=True):
        (interval,) = bootstrap_intervals([metric], u, wrong)
        assert interval is not None
        assert cell == "{:.3f} [{:.3f}, {:.3f}]".format(metric(Levels.of(u, wrong)), *interval)
    assert 0 < float(row[4]) < 1
    assert page.row("semantic_entropy")[4] == "–"
    out = capsys.readouterr().out
    assert row[1] in out
    assert "80 answers, 80 with a label" in out


def test_rows_are_sorted_and_have_bars(tmp_path: Path) -> None:
    page = report(tmp_path, *good_lines())
    figures = [float(row[1].split()[0]) for row in page.rows[1:]]
    assert figures == sorted(figures, reverse=True)
    assert len(page.by_class["bar"]) == len(figures) == 2


def test_those_that_rank_alike_share_a_row(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = report(tmp_path, *good_lines())
    assert [row[0] for row in page.rows[1:]] == ["perplexity", "semantic_entropy"]
    assert re.search(r"1 more ranks alike surety: mean -\d", page.text)
    out = capsys.readouterr().out
    assert "perplexity +1" in out
    assert "The same ranking as perplexity, and no row of their own: surety." in out


def test_one_value_for_all_answers_has_no_row_of_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [uncertainty(estimates={"a": n, "b": 1, "c": 0}, correct=n > 3) for n in range(9)]
    page = report(tmp_path, *lines)
    assert [row[0] for row in page.rows[1:2]] == ["a"]
    assert page.by_class["folded"] == [
        "One value for all answers, which ranks nothing: b (1), c (0)"
    ]
    assert (
        "One value for all answers, which ranks nothing: b (1), c (0)." in capsys.readouterr().out
    )


def test_methods_at_chance_are_grey(tmp_path: Path) -> None:
    lines = [uncertainty(estimates={"a": n, "b": n % 2}, correct=n < 20) for n in range(40)]
    page = report(tmp_path, *lines)
    (grey,) = page.by_class["chance"]
    assert grey.startswith("b 0.5")


def test_the_same_file_gives_the_same_page(tmp_path: Path) -> None:
    lines = good_lines()
    report(tmp_path, *lines)
    first = (tmp_path / "r.html").read_bytes()
    report(tmp_path, *lines)
    assert (tmp_path / "r.html").read_bytes() == first
    report(tmp_path, *lines, flags=("--seed", "5"))
    assert (tmp_path / "r.html").read_bytes() != first


def test_the_bar_can_be_asked_for(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    report(tmp_path, *good_lines(9), flags=("--progress",))
    assert "3/3" in capfd.readouterr().err
    report(tmp_path, *good_lines(9))
    assert capfd.readouterr().err == ""


def test_without_labels_it_says_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [uncertainty(estimates={"a": n, "b": -n}) for n in range(9)]
    page = report(tmp_path, *lines)
    assert [row[1:5] for row in page.rows[1:]] == [["–"] * 4] * 2
    assert page.tags.count("svg") == 3
    assert "answers" not in page.ids
    out = capsys.readouterr().out
    assert "9 answers, none with a label" in out
    assert "9 without a label: neither `correct` nor `reference`." in out


@pytest.mark.parametrize(
    ("estimate", "correct", "reason"),
    [
        (lambda n: n, lambda n: True, "no wrong answer"),
        (lambda n: n, lambda n: False, "no correct answer"),
        (lambda n: None, lambda n: n > 3, "no labelled"),
    ],
)
def test_undefined_figures_have_a_reason_and_no_number(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    estimate: Any,
    correct: Any,
    reason: str,
) -> None:
    lines = [uncertainty(estimates={"a": estimate(n)}, correct=correct(n)) for n in range(9)]
    page = report(tmp_path, *lines)
    assert page.rows[1][1:4] == ["–"] * 3
    out = capsys.readouterr().out
    assert f"no AUROC: {reason}" in out
    assert f"no PRR: {reason}" in out


def test_one_wrong_answer_has_a_figure_without_an_interval(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [uncertainty(estimates={"a": n}, correct=n != 7) for n in range(9)]
    page = report(tmp_path, *lines)
    assert page.rows[1][1] == "0.875 [–]"
    assert "no interval of AUROC: too few answers of one class" in capsys.readouterr().out


def test_too_few_different_values_are_not_too_few_answers_of_a_class(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [uncertainty(estimates={"a": int(n in (3, 7))}, correct=n % 3 > 0) for n in range(49)]
    page = report(tmp_path, *lines)
    assert page.rows[1][1].endswith("[–]")
    out = capsys.readouterr().out
    assert "no interval of AUROC: 47 of 49 values are equal" in out
    assert "too few answers of one class" not in out


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


def test_errors_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "none.jsonl")]) == 2
    assert main([write(tmp_path, {"line": 1, "error": {}}), "-o", str(tmp_path / "r")]) == 2
    good = write(tmp_path, *good_lines(9))
    assert main([good, "-o", str(tmp_path / "no" / "r.html")]) == 2
    none, empty, folder = capsys.readouterr().err.splitlines()
    assert none.startswith("conf-server report: error: ")
    assert none.endswith("none.jsonl: No such file or directory")
    assert empty.endswith("no estimates in it (1 failed lines)")
    assert folder.endswith("r.html: No such file or directory")


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


def test_bad_labels_and_repetitions_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [uncertainty(estimates={"a": n}, correct=n > 3) for n in range(9)]
    lines += [uncertainty(reference=42), uncertainty(reference=""), uncertainty(reference=7)]
    lines += [{**uncertainty(), "line": 3}]
    report(tmp_path, *lines)
    out = capsys.readouterr().out
    assert "12 answers, 9 with a label" in out
    none = "Labels that cannot be meant, and count as none, in"
    assert f"{none} 2 lines, the first one 10: `reference` must be a text or a list" in out
    assert f"{none} line 11: `reference` has a text of which nothing is left" in out
    assert "Not counted, because the file has the same answer before: line 13." in out


def test_without_matplotlib_there_are_no_plots_and_all_numbers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = report(tmp_path, *good_lines())
    table = capsys.readouterr().out
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    plain = report(tmp_path, *good_lines())
    assert plain.rows == drawn.rows
    assert "svg" not in plain.tags
    note = "No plots: matplotlib is not installed (pip install 'conf-server[report]').\n\n"
    assert capsys.readouterr().out.replace(note, "") == table
    path = write(tmp_path, *good_lines(9))
    assert main([path, "-o", str(tmp_path / "r.html"), "--png", str(tmp_path / "p")]) == 2
    assert capsys.readouterr().err == (
        "conf-server report: error: --png: matplotlib is not installed "
        "(pip install 'conf-server[report]').\n"
    )


@pytest.mark.parametrize("read_first", [True, False])
def test_a_reader_who_has_seen_enough_is_no_error(tmp_path: Path, read_first: bool) -> None:
    path = write(tmp_path, *good_lines(9))
    words = [sys.executable, "-m", "conf_server", "report", path, "-o", str(tmp_path / "r.html")]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    if read_first:
        assert process.stdout.readline().startswith("`perplexity` and `surety` rank first")
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == ""
    assert process.wait() == 0
    assert (tmp_path / "r.html").exists()


# Labels from a file of their own


def test_labels_from_another_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [uncertainty(estimates={"a": n}, correct=True) for n in range(9)]
    given = [{"line": n, "correct": n < 5} for n in (*range(1, 10), 12)]
    path = write(tmp_path, *given, name="labels.jsonl")
    page = report(tmp_path, *lines, flags=("--labels", path))
    assert page.rows[1][1].startswith("1.000")
    out = capsys.readouterr().out
    assert "9 answers, 9 with a label, 4 of them correct" in out
    assert f"9 lines have their labels from {path}." in out
    assert f"{path}: no answer for the labels of line 10." in out


def test_labels_that_cannot_be_used_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path, *good_lines(3))
    other = write(tmp_path, {"line": 7, "correct": True}, name="other.jsonl")
    bad = write(tmp_path, {"line": 1, "correct": "yes"}, name="bad.jsonl")
    page = str(tmp_path / "r.html")
    assert main([path, "-o", page, "--labels", other]) == 2
    assert main([path, "-o", page, "--labels", bad]) == 2
    assert main([path, "-o", other, "--labels", other]) == 2
    assert main(["-", "-o", page, "--labels", "-"]) == 2
    none, wrong, output, streams = capsys.readouterr().err.splitlines()
    assert none.endswith(f"--labels {other}: no label of an answer in {path}")
    assert wrong.endswith("bad.jsonl: line 1: `correct` must be true or false, or a list of these")
    assert output.endswith("other.jsonl: it has the labels")
    assert streams.endswith("--labels -: standard input has the answers")
    assert not Path(page).exists()


def test_names_of_a_file_cannot_steer_a_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = {"\x1b[2Jred": 0.5, "long" * 50: 0.5, "two\nlines": 0.5}
    reason = {"other": "\x1b]0;title\x07"}
    lines = [uncertainty(estimates=names, unavailable=reason) for _ in range(3)]
    assert main([write(tmp_path, *lines), "-o", str(tmp_path / "report.html")]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert r"\x1b[2Jred" in out
    assert r"two\nlines" in out
    assert max(map(len, out.splitlines())) < 300


@pytest.mark.parametrize(
    "line",
    [
        {"request": "1", "result": {"object": "\x1b[2J" + "x" * 3_000_000}},
        uncertainty(estimates={"\x1b[2J" + "x" * 3_000_000: 0.5}),
    ],
)
def test_nor_can_a_file_that_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], line: dict[str, Any]
) -> None:
    assert main([write(tmp_path, line), "-o", str(tmp_path / "report.html")]) == 2
    error = capsys.readouterr().err
    assert "\x1b" not in error
    assert "line 1" in error
    assert len(error) < 3000
