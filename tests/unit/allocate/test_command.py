"""`conf-server allocate`, from files of answers to the file of what to ask next."""

from __future__ import annotations

import gzip
import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from conf_server import cli

SURE = {"id": "sure", "answers": ["70"] * 8}
TORN = {"id": "torn", "answers": ["70", "68", None, "70", " 68 "]}
ASKED: dict[str, Any] = {"messages": [{"role": "user", "content": "1 + 1?"}], "seed": 7}


def written(path: Path, *lines: Any) -> str:
    text = "".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return str(path)


def thought(*votes: tuple[str, int], **fields: Any) -> dict[str, Any]:
    """A line of `conf-server think`."""
    think = {"groups": [{"answer": answer, "votes": count} for answer, count in votes]}
    result = {"object": "chat.completion", "think": {**think, **fields.pop("think", {})}}
    return {"line": 1, "server": "s", **fields, "result": result}


def sampled(*texts: str, **fields: Any) -> dict[str, Any]:
    """A line of `conf-server uncertainty`."""
    samples = [{"text": text} for text in texts]
    return {"line": 1, **fields, "result": {"object": "uncertainty", "samples": samples}}


def allocated(
    capsys: pytest.CaptureFixture[str], *words: str, budget: int = 10
) -> list[dict[str, Any]]:
    """The lines on standard output."""
    assert cli.main(["allocate", *words, f"--budget={budget}"]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line that says why."""
    try:
        status = cli.main(["allocate", *words])
    except SystemExit as exited:
        status = exited.code if isinstance(exited.code, int) else 1
    assert status == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    return line.removeprefix("conf-server allocate: error: ")


def test_plain_answers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path / "in.jsonl", SURE, TORN, "")
    assert allocated(capsys, path) == [{"id": "torn", "samples": 10}]


def test_all_forms_of_answers_count_alike(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Equal answers, and so equal shares, in the order of the file."""
    lines = [
        {"id": "a", "answers": ["70", "70", "68", 68]},
        thought(("70", 2), ("68", 2), id="b"),
        {
            "id": "c",
            "think": {"groups": [{"answer": "x", "votes": 2}, {"answer": "y", "votes": 2}]},
        },
        sampled("yes", "no ", "yes", "no", id="d", request="4"),
    ]
    path = written(tmp_path / "in.jsonl", *lines)
    found = allocated(capsys, path, budget=6)
    assert found == [
        {"id": name, "samples": n} for name, n in zip("abcd", (2, 2, 1, 1), strict=True)
    ]


def test_traces_without_an_answer_are_missing_and_stopped_ones_are_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def traces(status: str) -> dict[str, Any]:
        return {"traces": [{"status": status, "answer": None}] * 9}

    lines = [
        thought(("1", 2), ("2", 2), id="cut", request="1", think=traces("length")),
        thought(
            ("1", 2), ("2", 2), id="stopped", request="2", think=traces("stopped_low_confidence")
        ),
    ]
    path = written(tmp_path / "in.jsonl", *lines)
    assert allocated(capsys, path, budget=1) == [{"id": "stopped", "samples": 1}]


def test_a_line_with_its_question_is_the_next_request(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The seed is another one, or the same samples would be drawn again."""
    path = written(tmp_path / "in.jsonl", {**TORN, **ASKED, "think": {"vote": ["majority"]}})
    (line,) = allocated(capsys, path)
    think = {"vote": ["majority"], "budget": 10, "calibrate": "none"}
    assert line == {"id": "torn", **ASKED, "seed": 12, "think": think}


@pytest.mark.parametrize(
    "line",
    [
        thought(("1", 2), ("2", 2), **ASKED, id="a", correct=True, reference="2"),
        {"id": "a", **ASKED, "reference": "2", "think": {"groups": [{"answer": "1", "votes": 4}]}},
    ],
)
def test_what_was_answered_is_no_part_of_the_request(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], line: dict[str, Any]
) -> None:
    (found,) = allocated(capsys, written(tmp_path / "in.jsonl", line))
    assert found.pop("seed", 11) == 11
    assert found == {
        "id": "a",
        "messages": ASKED["messages"],
        "reference": "2",
        "think": {"budget": 10, "calibrate": "none"},
    }


def test_the_seeds_of_traces_that_were_stopped_are_used_up(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    statuses = ["finished", "finished", "length", "cancelled", "stopped_low_confidence"]
    traces = [
        {"status": status, "answer": None if status == "length" else "1"} for status in statuses
    ]
    line = thought(("1", 2), **ASKED, reference="2", think={"traces": traces})
    questions = written(tmp_path / "questions.jsonl", ASKED)
    path = written(tmp_path / "in.jsonl", line)
    (found,) = allocated(capsys, path, f"--questions={questions}")
    assert found["seed"] == ASKED["seed"] + len(statuses)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"calibrate": "none"}),
        ({"calibrate": "warmup", "warmup": 10}, {"calibrate": "none"}),
        ({"warmup": 4}, {"warmup": 4}),
        ({"calibrate": "fixed", "below": 14.2}, {"calibrate": "fixed", "below": 14.2}),
    ],
)
def test_a_budget_without_room_for_a_warmup_has_none(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    given: dict[str, Any],
    expected: dict[str, Any],
) -> None:
    path = written(tmp_path / "in.jsonl", {**ASKED, "think": given})
    (line,) = allocated(capsys, path)
    assert line["think"] == {**expected, "budget": 10}


def test_questions_of_the_run_stand_in_a_file_of_their_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    questions = written(
        tmp_path / "questions.jsonl",
        {"prompt": "1 + 1?", "uncertainty": {"methods": ["deg_mat"]}},
        {"prompt": "2 + 2?"},
    )
    answers = written(
        tmp_path / "out.jsonl",
        sampled("4", "5", line=2, request="2"),
        sampled("2", "3", request="1"),
    )
    found = allocated(capsys, answers, f"--questions={questions}", budget=8)
    options = {"return_samples": True}
    assert found[0] == {"prompt": "2 + 2?", "uncertainty": {"n_samples": 4, **options}}
    assert found[1] == {
        "prompt": "1 + 1?",
        "uncertainty": {"methods": ["deg_mat"], "n_samples": 4, **options},
    }


def test_rounds_count_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The questions themselves may be one of the files: they have no samples there."""
    paths = [
        written(tmp_path / "questions.jsonl", {"id": 1, **ASKED}, {"id": 2, **ASKED}),
        written(tmp_path / "first.jsonl", thought(("a", 1), id=1), thought(("a", 4), id=2, line=2)),
        written(
            tmp_path / "second.jsonl.gz", thought(("b", 3), id=2), thought(("a", 7), id=1, line=2)
        ),
    ]
    (line,) = allocated(capsys, *paths, budget=2)
    assert (line["id"], line["seed"]) == (2, 14)
    assert line["think"]["budget"] == 2


def test_the_same_answer_counts_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    twice = thought(("a", 1), ("b", 1), id="twice", request="7")
    once = thought(("a", 1), ("b", 1), id="once", request="8")
    path = written(tmp_path / "in.jsonl", once, twice, twice)
    assert [line["samples"] for line in allocated(capsys, path, budget=2)] == [1, 1]


def test_standard_input_and_failed_lines(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = f'{json.dumps(TORN)}\n{{"line": 2, "error": {{"message": "no"}}}}\n'
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(lines.encode())))
    assert cli.main(["allocate", "-", "--budget=3"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {"id": "torn", "samples": 3}
    assert captured.err == (
        "conf-server allocate: 3 samples for 1 of 1 questions (1 failed lines left out): -\n"
    )


@pytest.mark.parametrize("name", ["out.jsonl", "out.jsonl.gz"])
def test_the_output_is_replaced_as_a_whole(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """It may be the input."""
    path = tmp_path / name
    written(path, SURE, TORN)
    path.chmod(0o640)
    assert cli.main(["allocate", str(path), "--budget=3", "-o", str(path), "--progress"]) == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Allocating" in captured.err
    content = path.read_bytes()
    text = gzip.decompress(content) if name.endswith(".gz") else content
    assert json.loads(text) == {"id": "torn", "samples": 3}
    assert path.stat().st_mode & 0o777 == 0o640
    assert [found.name for found in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("{", "Expecting property name"),
        ({"id": 1, "answers": "70"}, "`answers`: must be a list"),
        ({"id": 1}, "no samples in it"),
        ({"result": 5}, "`result`: must be an object"),
        ({"result": {"object": "score", "data": []}}, "an answer of /v1/score has no samples"),
        ({"result": {"object": "uncertainty"}}, "`result.samples`: not in it; ask with"),
        (
            {"result": {"object": "uncertainty", "samples": [{"text": "a"}, {}]}},
            "`result.samples.1.text`: must be a text",
        ),
        ({"think": {"groups": {}}}, "`think.groups`: must be a list"),
        (
            {"think": {"groups": [{"answer": "a", "votes": 1.5}]}},
            "`think.groups.0.votes`: must be a whole number from 0 to",
        ),
    ],
)
def test_a_wrong_line_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], line: Any, why: str
) -> None:
    path = written(tmp_path / "in.jsonl", TORN, line)
    said = refused(capsys, path, "--budget=1")
    assert said.startswith(f"{path}: line 2: ")
    assert why in said


def test_bad_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path / "in.jsonl", {"answers": ["a"]})
    other = written(tmp_path / "other.jsonl", {"answers": ["a"]})
    empty = written(tmp_path / "empty.jsonl")
    away = str(tmp_path / "none" / "out")
    for words, why in (
        ((path,), "the following arguments are required: --budget"),
        ((path, "--budget=0"), "must be a whole number of at least 1, got '0'"),
        ((path, "--budget=1", "--num-answers=1"), "must be a whole number of at least 2, got '1'"),
        ((path, "--budget=1", "--num-answer=3"), "did you mean --num-answers?"),
        ((path, other, "--budget=1"), f"{path}: line 1: `id`: none"),
        ((empty, "--budget=1"), f"{empty}: no question in it"),
        ((away, "--budget=1"), f"{away}: No such file or directory"),
        ((path, "--budget=1", "-o", away), f"-o {away}: No such file or directory"),
        (("-", "-", "--budget=1"), "-: standard input can be read once"),
    ):
        assert why in refused(capsys, *words)
