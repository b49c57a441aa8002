"""A second run with the same command: what is kept, what is sent again, what is refused."""

from __future__ import annotations

import os
import re
import subprocess
from typing import Any

import pytest
from starlette.responses import JSONResponse, Response

from conf_server.batch import command
from tests.processes import DEADLINE_S, until
from tests.unit.batch.fake_server import FakeServer, error
from tests.unit.batch.runs import Files, background, expected, prompts


def test_nothing_is_lost_or_repeated_after_kill_9(server: FakeServer, files: Files) -> None:
    count, before = 200, 60
    lines = prompts(before) + prompts(count, wait=True)[before:]
    files.write(*lines)
    server.gate.clear()
    process = background("score", files.words(server, "--concurrency", "8"))
    until(lambda: len(server.bodies) == before + 8)
    process.kill()
    process.wait()
    os.truncate(files.output, files.output.stat().st_size - 12)  # in the middle of a line
    server.gate.set()
    asked = len(server.bodies)
    assert command.score(files.words(server)) == 0
    assert files.answers() == expected(count)
    # What was under way, and the torn line.
    assert count - before <= len(server.bodies) - asked <= count - before + 1


def test_a_rerun_tries_failed_lines_again(server: FakeServer, files: Files) -> None:
    files.write(*prompts(5), "{")
    server.behave = lambda body: error(400) if body["prompt"] == "p3" else None
    assert command.score(files.words(server)) == 1
    server.behave = lambda body: None
    files.write(*prompts(6))
    assert command.score(files.words(server)) == 0
    assert files.answers() == expected(6)
    assert server.prompts() == {"p1": 1, "p2": 1, "p3": 2, "p4": 1, "p5": 1, "p6": 1}


def test_a_finished_run_sends_nothing(
    server: FakeServer, files: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    files.write(*prompts(5))
    assert command.score(files.words(server)) == 0
    assert command.score(files.words(server)) == 0
    assert len(server.bodies) == 5
    assert "0 answered, 0 failed, 5 answered before" in capsys.readouterr().err


@pytest.mark.parametrize(
    "lines",
    [
        [{"prompt": "new", "completion": "c"}, *prompts(4)[1:]],
        ["{", *prompts(4)[1:]],
        ["", *prompts(4)[1:]],
        prompts(2),
    ],
    ids=["another request", "no JSON", "an empty line", "a shorter input"],
)
def test_an_answer_to_another_request_is_not_taken(
    server: FakeServer, plain: Files, capsys: pytest.CaptureFixture[str], lines: list[Any]
) -> None:
    plain.write(*prompts(3))
    assert command.score(plain.words(server)) == 0
    before = plain.output.read_bytes()
    plain.write(*lines)
    assert command.score(plain.words(server)) == 2
    assert re.search(
        r"line 1, the command or its flags have changed|ends before line 3",
        capsys.readouterr().err,
    )
    assert plain.output.read_bytes() == before
    assert len(server.bodies) == 3


def test_scores_and_estimates_do_not_mix(server: FakeServer, files: Files) -> None:
    files.write(*prompts(3))
    for main, other in ((command.score, command.uncertainty), (command.uncertainty, command.score)):
        assert main(files.words(server, "--overwrite")) == 0
        before, asked = files.output.read_bytes(), len(server.bodies)
        assert other(files.words(server)) == 2
        assert files.output.read_bytes() == before
        assert len(server.bodies) == asked


@pytest.mark.parametrize("piped", [False, True])
def test_all_answers_are_compared_before_anything_is_sent(
    server: FakeServer, plain: Files, piped: bool
) -> None:
    plain.write(*({"prompt": line["prompt"]} for line in prompts(9)))
    server.behave = lambda body: error(400) if body["prompt"] != "p5" else None
    assert command.uncertainty(plain.words(server, "--n-samples", "5")) == 1
    before = plain.output.read_bytes()
    server.behave = lambda body: None
    words = plain.words(server, "--n-samples", "20")
    if piped:
        process = background("uncertainty", ["-", *words[1:]], stdin=subprocess.PIPE)
        process.communicate(plain.input.read_bytes(), DEADLINE_S)
        assert process.returncode == 2
    else:
        assert command.uncertainty(words) == 2
    assert plain.output.read_bytes() == before
    assert len(server.bodies) == 9
    assert command.uncertainty(plain.words(server, "--n-samples", "5")) == 0
    asked = {line["result"]["asked"]["n_samples"] for line in plain.by_line().values()}
    assert asked == {5}


def test_labels_and_metadata_belong_to_no_request(server: FakeServer, files: Files) -> None:
    first, second = prompts(2)
    files.write({**first, "correct": True, "id": 1}, second)
    assert command.score(files.words(server)) == 0
    before = files.lines()
    files.write({**first, "reference": "d"}, {**second, "metadata": {"x": [0.1]}})
    assert command.score(files.words(server)) == 0
    assert len(server.bodies) == 2
    assert files.lines() == before


# Which model


@pytest.mark.parametrize(("model", "root"), [("other", "/models/m"), ("m", "/models/other")])
def test_another_model_is_not_mixed_in(
    server: FakeServer, plain: Files, capsys: pytest.CaptureFixture[str], model: str, root: str
) -> None:
    plain.write(*prompts(2))
    assert command.score(plain.words(server)) == 0
    before = plain.output.read_bytes()
    plain.write(*prompts(4))
    server.model, server.root = model, root
    assert command.score(plain.words(server)) == 2
    assert f"its answers are of m (/models/m), not of {model} ({root})" in capsys.readouterr().err
    assert plain.output.read_bytes() == before
    assert len(server.bodies) == 2


def test_another_server_with_the_same_model_goes_on(server: FakeServer, plain: Files) -> None:
    plain.write(*prompts(2))
    assert command.score(plain.words(server)) == 0
    plain.write(*prompts(4))
    with FakeServer() as other:
        assert command.score(plain.words(other)) == 0
    assert plain.answers() == expected(4)


def test_a_line_may_name_its_model(server: FakeServer, plain: Files) -> None:
    plain.write({**prompts(1)[0], "model": "lora"}, *prompts(2)[1:])
    assert command.score(plain.words(server)) == 0
    models = {number: line["result"]["model"] for number, line in plain.by_line().items()}
    assert models == {1: "lora", 2: "m"}


def test_a_model_that_changes_during_the_run_stops_it(
    server: FakeServer, plain: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    def restart(body: dict[str, Any]) -> Response | None:
        if body["prompt"] in ("p1", "p2"):
            return None
        return JSONResponse({"object": "score", "model": "other", "data": []})

    plain.write(*prompts(9))
    server.behave = restart
    assert command.score(plain.words(server, "--concurrency", "1")) == 1
    assert "line 3: an answer of model 'other'" in capsys.readouterr().err
    assert plain.answers() == expected(2)


def test_answers_of_two_servers_in_one_file(
    server: FakeServer, plain: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    plain.write(*prompts(2))
    assert command.score(plain.words(server)) == 0
    text = plain.output.read_text()
    plain.output.write_text(text.replace("(/models/m)", "(/models/other)", 1))
    assert command.score(plain.words(server)) == 2
    assert "those before are of m (/models/other)" in capsys.readouterr().err
