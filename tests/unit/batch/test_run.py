"""Runs against a small server: what is sent, what is written, what stops a run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import JSONResponse, PlainTextResponse, Response

from conf_server.batch import command
from tests.processes import DEADLINE_S, until
from tests.unit.batch.fake_server import DEEP, FakeServer, error
from tests.unit.batch.runs import Files, background, expected, prompts


def test_every_line_is_answered_once(server: FakeServer, files: Files) -> None:
    files.write(*prompts(100))
    assert command.score(files.words(server)) == 0
    assert files.answers() == expected(100)
    assert set(server.prompts().values()) == {1}


def test_labels_and_metadata_are_carried_and_not_sent(server: FakeServer, plain: Files) -> None:
    kept = {"id": ["a", 1], "correct": None, "reference": "Paris", "metadata": {"é": [1.5]}}
    plain.write({"prompt": "p", "completion": " Paris", "mode": "stats", **kept})
    assert command.score(plain.words(server)) == 0
    (line,) = plain.lines()
    assert {name: line[name] for name in kept} == kept
    assert line["completion"] == " Paris"
    assert line["result"] == {"model": "m", "usage": {}, "object": "score", "data": ["p"]}
    assert server.bodies == [{"prompt": "p", "completion": " Paris", "mode": "stats"}]


def test_requests_under_way_are_bounded(server: FakeServer, plain: Files) -> None:
    plain.write(*prompts(60))
    assert command.score(plain.words(server, "--concurrency", "3")) == 0
    assert 1 <= server.most <= 3
    assert plain.answers() == expected(60)


def test_a_slow_line_holds_no_other_up(server: FakeServer, plain: Files) -> None:
    first, *others = prompts(30)
    plain.write({**first, "wait": True}, *others)
    server.gate.clear()
    process = background("score", plain.words(server, "--concurrency", "2"))
    until(lambda: plain.output.exists() and plain.output.read_bytes().count(b"\n") == 29)
    server.gate.set()
    assert process.wait(DEADLINE_S) == 0
    assert plain.lines()[-1]["line"] == 1


def test_pipes_in_and_out(server: FakeServer) -> None:
    words = ["-", "-o", "-", "--url", server.url + "/v1/"]
    long = json.dumps({"prompt": "p1", "completion": "x" * 300_000})
    text = f'{long}\n\n{{"prompt": "p3", "completion": "c"}}'
    process = background(
        "score", words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    out, err = process.communicate(text.encode(), DEADLINE_S)
    assert process.returncode == 0, err
    found = {line["line"]: line["result"]["data"][0] for line in map(json.loads, out.splitlines())}
    assert found == {1: "p1", 3: "p3"}
    assert err.decode() == "conf-server score: 2 answered, 0 failed: -\n"


def test_the_bar_can_be_asked_for(
    server: FakeServer, plain: Files, capfd: pytest.CaptureFixture[str]
) -> None:
    plain.write(*prompts(3))
    assert command.score(plain.words(server, "--progress")) == 0
    assert "3/3" in capfd.readouterr().err


def test_uncertainty_flags_fill_in_what_a_line_leaves_open(
    server: FakeServer, plain: Files
) -> None:
    own = {"methods": ["fast"], "return_samples": True}
    plain.write({"prompt": "a"}, {"prompt": "b", "uncertainty": own})
    flags = ("--methods", "p_true,sar", "--n-samples", "5", "--temperature", "0.7")
    assert command.uncertainty(plain.words(server, *flags, "--similarity", "rouge")) == 0
    asked = {n: line["result"]["asked"] for n, line in plain.by_line().items()}
    common = {"n_samples": 5, "temperature": 0.7, "similarity": "rouge"}
    assert asked == {1: {"methods": ["p_true", "sar"], **common}, 2: {**common, **own}}


def test_without_flags_a_body_is_sent_as_it_is(server: FakeServer, plain: Files) -> None:
    plain.write({"prompt": "a", "n": 1})
    assert command.uncertainty(plain.words(server)) == 0
    assert server.bodies == [{"prompt": "a", "n": 1}]


# Lines that fail


BAD_LINES = {
    "{": "not JSON",
    '{"prompt": NaN}': "NaN is not a JSON number",
    '{"temperature": 1e999}': "1e999 is too large for a double",
    "[" * 100_000: "not JSON",
    "[1]": "not a JSON object",
    '{"items": []}': "each item on a line of its own",
    '{"stream": true}': "one line has one answer",
}


@pytest.mark.parametrize("text", BAD_LINES, ids=lambda text: text[:16])
def test_a_bad_line_is_reported_and_the_others_answered(
    server: FakeServer, plain: Files, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    plain.write(*prompts(2), text, {"prompt": "p4", "completion": "c"})
    assert command.score(plain.words(server)) == 1
    lines = plain.by_line()
    assert sorted(lines) == [1, 2, 3, 4]
    assert BAD_LINES[text] in lines[3]["error"]["message"]
    err = capsys.readouterr().err
    assert "conf-server score: line 3: " in err
    assert "3 answered, 1 failed" in err


@pytest.mark.parametrize("status", [400, 404, 422, 500])
def test_the_servers_refusal_is_kept(server: FakeServer, plain: Files, status: int) -> None:
    plain.write({"prompt": "bad", "completion": "c", "id": 7}, *prompts(2)[1:])
    server.behave = lambda body: error(status) if body["prompt"] == "bad" else None
    assert command.score(plain.words(server)) == 1
    lines = plain.by_line()
    kept = {"line": 1, "id": 7, "error": {"message": "no", "type": "t", "code": status}}
    assert lines[1] == kept
    assert lines[2]["result"]["data"] == ["p2"]


def test_a_refusal_too_deep_to_be_read_is_kept_as_text(server: FakeServer, plain: Files) -> None:
    plain.write(*prompts(1))
    server.behave = lambda body: PlainTextResponse(DEEP.body, 400)
    assert command.score(plain.words(server)) == 1
    message = plain.by_line()[1]["error"]["message"]
    assert message == "HTTP 400 " + "[" * 200


def test_no_answer_in_time_fails_the_line(server: FakeServer, plain: Files) -> None:
    server.gate.clear()
    plain.write(*prompts(1, wait=True))
    assert command.score(plain.words(server, "--timeout", "1")) == 1
    assert plain.by_line()[1]["error"]["message"] == "no answer within 1 s"


# What ends a run


GOES_ON = "The same command goes on from here."


@pytest.mark.parametrize("there", [0, 3])
def test_a_run_that_could_not_begin_says_why_and_no_more(
    server: FakeServer, plain: Files, capsys: pytest.CaptureFixture[str], there: int
) -> None:
    plain.write(*prompts(there))
    if there:
        assert command.score(plain.words(server)) == 0
    plain.write(*prompts(9))
    capsys.readouterr()
    words = [str(plain.input), "-o", str(plain.output), "--url", "http://127.0.0.1:1"]
    assert command.score([*words, "--retries", "0"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "cannot connect" in line


def test_a_server_with_another_model_now_cannot_be_gone_on_with(
    server: FakeServer, plain: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    plain.write(*prompts(9))
    answers: list[dict[str, Any]] = []

    def other_model(body: dict[str, Any]) -> Response | None:
        answers.append(body)
        if len(answers) < 3:
            return None
        return JSONResponse({"object": "score", "model": "other", "data": ["x"]})

    server.behave = other_model
    assert command.score([*plain.words(server), "--concurrency", "1"]) == 1
    err = capsys.readouterr().err
    assert "an answer of model 'other'" in err
    assert "stopped; 2 answered, 0 failed" in err
    assert GOES_ON not in err


def told_to_stop(
    server: FakeServer, files: Files, number: int
) -> tuple[subprocess.Popen[bytes], Path]:
    """A run that has got a signal with four requests under way, and has said so; its log."""
    log = files.input.with_name("log")
    server.gate.clear()
    with log.open("wb") as stderr:
        process = background("score", files.words(server, "--concurrency", "4"), stderr=stderr)
    until(lambda: len(server.bodies) == 4)
    process.send_signal(number)
    until(lambda: "for requests under way (4); a second signal does not wait" in log.read_text())
    return process, log


SIGNALS = [(signal.SIGINT, 130), (signal.SIGTERM, 143)]


@pytest.mark.parametrize(("number", "status"), SIGNALS)
def test_a_signal_waits_for_what_is_under_way(
    server: FakeServer, files: Files, number: int, status: int
) -> None:
    files.write(*prompts(100, wait=True))
    process, log = told_to_stop(server, files, number)
    server.gate.set()
    assert process.wait(DEADLINE_S) == status
    assert GOES_ON in log.read_text()
    assert files.answers() == expected(4)
    assert command.score(files.words(server)) == 0
    assert files.answers() == expected(100)
    assert set(server.prompts().values()) == {1}


@pytest.mark.parametrize(("number", "status"), SIGNALS)
def test_a_second_signal_does_not_wait(
    server: FakeServer, plain: Files, number: int, status: int
) -> None:
    plain.write(*prompts(9, wait=True))
    process, _ = told_to_stop(server, plain, number)
    process.send_signal(number)
    assert process.wait(DEADLINE_S) == status
    assert plain.lines() == []


def test_a_signal_ends_the_wait_for_a_pipe(server: FakeServer, plain: Files) -> None:
    words = ["-", "-o", str(plain.output), "--url", server.url]
    process = background("score", words, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stderr is not None
    process.stdin.write(json.dumps(prompts(1)[0]).encode() + b"\n")
    process.stdin.flush()
    until(lambda: plain.output.exists() and plain.output.read_bytes().endswith(b"\n"))
    process.send_signal(signal.SIGTERM)
    assert process.wait(DEADLINE_S) == 143
    assert b"under way" not in process.stderr.read()
    assert plain.answers() == {1: "p1"}


def test_nobody_reads_the_output(server: FakeServer, plain: Files) -> None:
    plain.write(*prompts(50))
    read, write = os.pipe()
    os.close(read)
    words = [str(plain.input), "-o", "-", "--url", server.url]
    process = background("score", words, stdout=write, stderr=-1)
    os.close(write)
    _, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 1
    assert "Broken pipe" in err.decode()
    assert "Traceback" not in err.decode()


def test_an_input_that_ends_in_the_middle(
    server: FakeServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = Files(tmp_path, ".gz")
    files.write(*prompts(500, metadata=os.urandom(50).hex()))
    files.input.write_bytes(files.input.read_bytes()[:-40])
    assert command.score(files.words(server)) == 1
    err = capsys.readouterr().err
    assert "in.jsonl.gz" in err
    assert GOES_ON not in err  # It would end at the same place.
    assert files.answers().items() <= expected(500).items()


def test_a_full_disk_stops_the_run(
    server: FakeServer, plain: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    plain.write(*prompts(50))
    words = [str(plain.input), "-o", "/dev/full", "--url", server.url, "--concurrency", "1"]
    assert command.score(words) == 1
    err = capsys.readouterr().err
    assert "No space left" in err
    assert err.endswith(f"{GOES_ON}\n")
    assert len(server.bodies) <= 2
