"""evaluation.thinking: its questions, its settings, and what it says of their answers."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import JSONResponse

from conf_server.report.recorded_traces import Question
from evaluation import sums_in_steps, thinking
from evaluation.thinking_replay import replayed
from evaluation.thinking_table import (
    HEAD,
    UnpairedError,
    as_cheap,
    majority_of,
    markdown,
    read_settings,
    told_apart,
)
from evaluation.thinking_twins import Twins, twins
from tests.unit.batch.fake_server import FakeServer
from tests.unit.thoughts import thought, trace


def numbers_of(body: Mapping[str, Any]) -> list[int]:
    question = body["messages"][-1]["content"].strip(".").replace(" and", ",")
    return [int(one) for one in question.removeprefix("Add ").split(", ")]


def answered(body: dict[str, Any]) -> JSONResponse:
    """Half of the traces are right, the surer ones; those of one seed are the same."""
    think, right = body["think"], sum(numbers_of(body))
    traces = []
    for index in range(think["budget"] if think["consensus"]["rule"] == "none" else 3):
        draw = random.Random(body["seed"] + index)
        is_right = draw.random() < 0.5
        said = right if is_right else right + draw.randint(1, 3)
        confidence = 9.0 + is_right + draw.random()
        traces.append(trace(index, str(said), confidence, num_tokens=draw.randint(20, 30)))
    said = [one["answer"] for one in traces]
    votes = {name: max(said, key=said.count) for name in think["vote"]}
    return JSONResponse({**thought(traces, votes), "model": "m", "usage": {}})


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as server:
        server.behave = answered
        yield server


def cells(table: str) -> list[list[str]]:
    lines = [line for line in table.splitlines() if line.startswith("|")]
    head, _, *rows = ([*map(str.strip, line.strip("|").split("|"))] for line in lines)
    assert tuple(head) == HEAD
    return rows


def test_questions_are_others_than_the_examples_and_each_is_asked_once() -> None:
    lines = [*sums_in_steps.lines()]
    asked = [line["messages"][-1]["content"] for line in lines]
    shown = {message["content"] for message in lines[0]["messages"][:-1]}
    assert len({*asked}) == len(lines) == sums_in_steps.SUMS
    assert not shown & {*asked}
    assert all(line["reference"] == str(sum(numbers_of(line))) for line in lines)
    assert sums_in_steps.worked_out((2, 3, 4)) == "2 + 3 = 5. 5 + 4 = 9. Answer: 9"


def test_seeds_of_the_traces_of_two_questions_are_not_the_same() -> None:
    seeds = sorted(line["seed"] for line in sums_in_steps.lines())
    assert all(b - a >= thinking.BUDGET for a, b in pairwise(seeds))


def test_every_setting_has_a_row_and_a_second_run_asks_nothing(
    server: FakeServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(tmp_path / "run"), "--url", server.url]
    assert thinking.main(words) == 0
    table = capsys.readouterr().out
    assert [row[0] for row in cells(table)] == [f"`{name}`" for name in thinking.SETTINGS]
    assert "beta: 360 of 360 whole traces are the same." in table
    assert (tmp_path / "run" / "accuracy-tokens.png").stat().st_size > 10_000
    assert len(server.bodies) == sums_in_steps.SUMS * len(thinking.SETTINGS)
    assert thinking.main(words) == 0
    assert capsys.readouterr().out == table
    assert len(server.bodies) == sums_in_steps.SUMS * len(thinking.SETTINGS)


def test_a_server_that_fails_is_no_table(
    server: FakeServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.behave = lambda body: JSONResponse({"error": {"message": "no"}}, 500)
    assert thinking.main([str(tmp_path), "--url", server.url]) == 1
    assert capsys.readouterr().out == ""
    assert [path.name for path in tmp_path.glob("*.jsonl") if "questions" not in path.name] == [
        "all.jsonl"
    ]


def write(path: Path, *questions: Sequence[str | None], first_line: int = 1) -> Path:
    """An output whose questions have these traces of 10 tokens; "1" is the right answer."""
    with path.open("w") as file:
        for number, said in enumerate(questions, first_line):
            traces = [trace(index, one, num_tokens=10) for index, one in enumerate(said)]
            known = [one for one in said if one]
            winner = max(known, key=known.count) if known else None
            line = {"line": number, "request": f"{number}", "reference": "1"}
            print(json.dumps(line | {"result": thought(traces, {"majority": winner})}), file=file)
    return path


def test_a_setting_is_held_against_the_majority_of_all_and_of_as_many_tokens(
    tmp_path: Path,
) -> None:
    everything = write(tmp_path / "all", ["2", "1", "1", "1"], ["1", "2", "2", "1"])
    early = write(tmp_path / "early", ["1", "1"], ["1", None, None])
    greedy = write(tmp_path / "greedy", ["2"], ["1"])
    settings = read_settings({"all": everything, "early": early, "greedy": greedy})
    assert as_cheap(settings[0], settings[1].tokens.mean()) == 2
    assert majority_of(settings[0], 2)[0].tolist() == [0, 1]
    assert majority_of(settings[0], 4)[0].tolist() == [1, 1]
    whole, row, _ = cells(markdown(settings))
    assert whole[3].startswith("40 ")
    assert whole[4] == whole[7] == row[4] == "0"
    assert row[2].startswith("100.0 %")
    assert row[3].startswith("25 [")
    assert row[5].startswith("+50.0 [")
    assert row[6].startswith("50.0 %")
    assert row[6].endswith(" of 2")
    assert row[7].startswith("+50.0 [")
    assert row[8] == "5 finished"


def test_how_well_confidence_tells_the_traces_of_a_question_apart(tmp_path: Path) -> None:
    """Three of four pairs are in order; a question whose traces are all right has no pairs."""
    said = [(("1", 12.0), ("1", 10.0), ("2", 11.0), (None, 9.0)), (("1", 9.0), ("1", 8.0))]
    with (tmp_path / "all").open("w") as file:
        for number, pairs in enumerate(said, 1):
            traces = [trace(index, *pair) for index, pair in enumerate(pairs)]
            line = {"line": number, "request": f"{number}", "reference": "1"}
            print(json.dumps(line | {"result": thought(traces, {"majority": "1"})}), file=file)
    (everything,) = read_settings({"all": tmp_path / "all"})
    assert told_apart(everything).tolist() == [0.75]


def test_files_of_other_lines_are_not_compared(tmp_path: Path) -> None:
    one, other = write(tmp_path / "one", ["1"]), write(tmp_path / "other", ["1"], first_line=2)
    with pytest.raises(UnpairedError, match="other lines"):
        read_settings({"one": one, "other": other})


def recorded(path: Path, *traces: dict[str, Any], threshold: float | None = None) -> Path:
    thinking = thought(traces, {"majority": "1"}, threshold=threshold)
    path.write_text(json.dumps({"line": 1, "request": "1", "result": thinking}))
    return path


def test_traces_are_stopped_where_the_whole_ones_say(tmp_path: Path) -> None:
    """The third one falls below the threshold with its last token, and has ended by itself."""
    whole = [trace(0, "1", 11.0), trace(1, "1", 9.0, tail_conf=9.5), trace(2, "1", 9.0)]
    everything = recorded(tmp_path / "all", *whole)
    stopped = {"status": "stopped_low_confidence", "num_tokens": 40}
    right = (whole[0], trace(1, None, 9.2, **stopped), whole[2])
    path = tmp_path / "other"
    assert twins(everything, recorded(path, *right, threshold=10.0)) == Twins(2, 2, 3, 3)
    missed = (trace(0, None, 10.5, **stopped), whole[1], trace(2, "2", 9.0))
    assert twins(everything, recorded(path, *missed, threshold=10.0)) == Twins(2, 1, 3, 1)
    assert twins(everything, recorded(path, *whole)) == Twins(3, 3, 0, 0)


def test_a_threshold_is_taken_from_the_warm_up_alone(tmp_path: Path) -> None:
    """One of the first eight passes, and four after them. Of the eight alone, all vote."""
    sure = [trace(0, "2", 20.0), *(trace(n, "2", 1.0) for n in range(1, 8))]
    surer = [trace(8 + n, "1", 30.0 + n) for n in range(4)]
    others = [trace(12 + n, "2", 1.0) for n in range(12)]
    with (tmp_path / "all").open("w") as file:
        result = thought([*sure, *others, *surer], {"majority": "2"})
        print(
            json.dumps({"line": 1, "request": "1", "reference": "1", "result": result}), file=file
        )
    (everything,) = read_settings({"all": tmp_path / "all"})
    (question,) = everything.questions
    assert replayed(question, 8) == (True, False)
    few = Question(question.traces[:8], question.right)
    assert replayed(few, 8) == (False, True)
