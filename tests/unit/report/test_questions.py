"""What was asked, from a line of an output or from the input of the run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from conf_server.report.command import main
from conf_server.report.questions import question_of
from tests.unit.report.files import good_lines, uncertainty, write


@pytest.mark.parametrize(
    ("line", "question"),
    [
        ({"prompt": "Why?"}, "Why?"),
        ({"prompt": [1, 2, 3]}, "[3 token ids]"),
        ({"messages": [{"role": "user", "content": "Why?"}]}, "Why?"),
        (
            {"messages": [{"content": "Be brief."}, {"content": "Hm."}, {"content": "Why?"}]},
            "[after 2 other messages] Why?",
        ),
        (
            {
                "messages": [
                    {"content": [{"type": "text", "text": "Who?"}, {"type": "image_url"}]},
                ]
            },
            "Who? [image_url]",
        ),
        ({"messages": []}, None),
        ({"messages": "Why?"}, None),
        ({}, None),
    ],
)
def test_the_question_of_a_line(line: dict[str, Any], question: str | None) -> None:
    assert question_of(line) == question


def test_what_is_no_input_of_the_run_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path, *[{**line, "id": n} for n, line in enumerate(good_lines(9))])
    other = write(tmp_path, {"prompt": "Why?", "id": "x"}, name="other.jsonl")
    none = write(tmp_path, {"id": 0}, name="none.jsonl")
    page = str(tmp_path / "r.html")
    assert main([path, "-o", page, "--questions", other]) == 2
    assert main([path, "-o", page, "--questions", none]) == 2
    assert main([path, "-o", other, "--questions", other]) == 2
    assert main(["-", "-o", page, "--questions", "-"]) == 2
    ids, nothing, output, streams = capsys.readouterr().err.splitlines()
    assert ids.endswith('other.jsonl: line 1: its id is "x", that of the answer is 0')
    assert nothing.endswith("none.jsonl: no `prompt` and no `messages` in it")
    assert output.endswith("other.jsonl: it has the questions")
    assert streams.endswith("--questions -: standard input has the answers")


def test_an_input_that_belongs_to_no_answer_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path, *({**uncertainty(), "line": n} for n in (5, 6)))
    other = write(tmp_path, {"prompt": "Why?"}, name="other.jsonl")
    assert main([path, "-o", str(tmp_path / "r.html"), "--questions", other]) == 0
    assert f"{other}: none of its lines belongs to an answer." in capsys.readouterr().out
