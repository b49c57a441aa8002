"""The report on a file of `conf-server think`: its page, what is printed, what is not known."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from conf_server.report.command import main
from tests.unit.report.files import uncertainty, write
from tests.unit.report.pages import Page, report
from tests.unit.report.think_files import think_line, think_lines
from tests.unit.thoughts import trace

HELD = ("majority", "min_window_weighted", "top10_tail_filtered", "self_certainty_borda")


def test_the_page_has_votes_tokens_and_what_a_stop_costs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = report(tmp_path, *think_lines())
    assert page.text.startswith("Thinking: out.jsonl")
    assert "think" in page.ids
    assert page.row("traces") == ["traces", "1", "2", "4", "8", "16", "less majority"]
    for name in HELD:
        assert re.fullmatch(r"0\.\d{3} \[0\.\d{3}, 0\.\d{3}\]", page.row(name)[5])
    assert page.row("majority")[-1] == ""
    assert len(page.row("0.1")) == len(page.row("keep_top"))
    assert "The threshold is that of the question's own warm-up traces." in page.text
    assert {"plot-accuracy-tokens", "plot-early-stop"} <= places(page)
    out = capsys.readouterr().out
    assert out.startswith("`majority` over 16 traces is right on 55 % (40 to 70 %) of 40 questions")
    assert page.row("majority")[5] in out
    assert "Early stopping at `keep_top` 0.1 would drop" in out


def places(page: Page) -> set[str]:
    """Names of plots, which stand before their ids."""
    names = ("plot-accuracy-tokens", "plot-early-stop")
    return {name for name in names if any(one.startswith(f"{name}-") for one in page.ids)}


def test_agreement_is_a_method_like_others(tmp_path: Path) -> None:
    page = report(tmp_path, *think_lines())
    assert page.row("vote_share")[-1] == "surer"
    assert float(page.row("weight_share")[1].split()[0]) > 0.5


def test_the_recorded_votes_are_held_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = think_lines(9)
    report(tmp_path, *lines)
    again = "a recorded vote is not the one that is held again"
    assert again not in capsys.readouterr().out
    votes = lines[0]["result"]["think"]["votes"]
    votes["majority"]["answer"] = "no answer of any trace"
    report(tmp_path, *lines)
    assert f"In 1 lines {again}" in capsys.readouterr().out


def test_stopped_traces_are_told_and_not_guessed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = think_lines(9, budget=8)
    for line in lines:
        last = line["result"]["think"]["traces"][-1]
        last |= {"status": "stopped_low_confidence", "answer": None, "voted": False}
    report(tmp_path, *lines)
    out = capsys.readouterr().out
    assert "9 traces (12 %) were stopped early in this run. What they would have answered" in out


def test_a_question_without_an_answer_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    none = think_line([trace(0, None)], {"majority": None}, reference="70")
    some = think_line([trace(0, "70")], {"majority": "70"}, reference="70")
    page = report(tmp_path, some, none, some)
    assert "3 answers, 3 with a label, 2 of them correct" in capsys.readouterr().out
    assert page.row("majority")[1] == "0.667 [0.000, 1.000]"


@pytest.mark.parametrize("traces", [None, []])
def test_a_file_without_traces_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], traces: Any
) -> None:
    lines = think_lines(9)
    for line in lines:
        line["result"]["think"]["traces"] = traces
    page = report(tmp_path, *lines)
    assert places(page) == set()
    assert '9 lines have no traces in them (`think.traces` was "none")' in capsys.readouterr().out
    assert page.row("vote_share")


def test_without_references_there_are_no_curves(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = think_lines(9)
    for number, line in enumerate(lines):
        del line["reference"]
        line["correct"] = number < 5
    page = report(tmp_path, *lines)
    assert places(page) == set()
    out = capsys.readouterr().out
    assert "9 lines have no `reference`, and so no place in the curves." in out
    assert "9 answers, 9 with a label, 5 of them correct" in out


def test_votes_of_another_version_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = think_line([trace(0, "70")], {"plurality": "70", "majority": "70"}, reference="70")
    report(tmp_path, line, line)
    out = capsys.readouterr().out
    assert "Votes that this version does not know: plurality." in out
    assert out.startswith("`majority` over 1 traces")


def test_the_plots_are_files_too(tmp_path: Path) -> None:
    path = write(tmp_path, *think_lines(9))
    assert main([path, "-o", str(tmp_path / "r.html"), "--png", str(tmp_path / "p")]) == 0
    assert {"accuracy-tokens.png", "early-stop.png"} <= {
        one.name for one in (tmp_path / "p").iterdir()
    }


def test_a_file_of_another_command_has_none_of_it(tmp_path: Path) -> None:
    page = report(tmp_path, *(uncertainty(correct=n > 3) for n in range(9)))
    assert "think" not in page.ids
    assert page.text.startswith("Uncertainty: out.jsonl")


def test_a_chat_that_was_not_thought_about_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = think_line([trace(0, "70")], {"majority": "70"})
    del line["result"]["think"]
    assert main([write(tmp_path, line), "-o", str(tmp_path / "r.html")]) == 2
    assert "object 'chat.completion' is neither" in capsys.readouterr().err


def test_two_runs_are_compared_by_question(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [write(tmp_path, *think_lines(20, n), name=f"b{n}.jsonl") for n in (2, 16)]
    assert main([*paths, "-o", str(tmp_path / "r.html")]) == 0
    page = Page((tmp_path / "r.html").read_text())
    assert {"file-1-think", "file-2-think"} <= set(page.ids)
    assert "paired by question, over the 20 labelled answers" in capsys.readouterr().out
