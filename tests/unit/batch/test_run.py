"""conf-server score and uncertainty against a small server that fails in every way."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from conf_server import server_process
from conf_server.batch import client, own_server, score, uncertainty

DEADLINE_S = 60
GRACE_S = 10 * DEADLINE_S
"""Of a run in the background: it ends for a reason, not because its time is up."""


class FakeServer:
    """Answers with the prompt it was sent, unless `behave` says otherwise.

    Attributes:
        model, root: what it says it serves.
        bodies: of all requests, in order of arrival.
        most: requests that were under way at once.
    """

    def __init__(self) -> None:
        self.model, self.root = "m", "/models/m"
        self.bodies: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.behave: Callable[[dict[str, Any]], Response | None] = lambda body: None
        self.gate = threading.Event()
        self.gate.set()
        self.most = self._now = 0
        self._lock = threading.Lock()
        routes = [
            Route("/v1/score", self._score, methods=["POST"]),
            Route("/v1/uncertainty", self._uncertainty, methods=["POST"]),
            Route("/health", lambda _: Response()),
            Route("/v1/models", self._models),
        ]
        self._sock = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._sock.getsockname()[1]}"
        self.app = Starlette(routes=routes)
        self._server = uvicorn.Server(uvicorn.Config(self.app, log_level="error", lifespan="off"))
        self._thread = threading.Thread(target=self._server.run, args=([self._sock],))

    def __enter__(self) -> FakeServer:
        self._thread.start()
        until(lambda: self._server.started)
        return self

    def __exit__(self, *_: object) -> None:
        self.gate.set()
        self._server.should_exit = self._server.force_exit = True
        self._thread.join()
        self._sock.close()

    def prompts(self) -> Counter[str]:
        return Counter(body["prompt"] for body in self.bodies)

    async def _models(self, _: Request) -> Response:
        return JSONResponse({"data": [{"id": self.model, "root": self.root}, {"id": "lora"}]})

    async def _score(self, request: Request) -> Response:
        body = await request.json()
        return await self._answer(request, body, {"object": "score", "data": [body["prompt"]]})

    async def _uncertainty(self, request: Request) -> Response:
        body = await request.json()
        answer = {"object": "uncertainty", "estimates": {}, "asked": body.get("uncertainty")}
        return await self._answer(request, body, answer)

    async def _answer(
        self, request: Request, body: dict[str, Any], answer: dict[str, Any]
    ) -> Response:
        self.bodies.append(body)
        self.keys.append(request.headers.get("authorization"))
        self._now += 1
        self.most = max(self.most, self._now)
        try:
            while body.get("wait") and not self.gate.is_set():
                await asyncio.sleep(0.01)
            model = body.get("model", self.model)
            return self.behave(body) or JSONResponse({"model": model, "usage": {}, **answer})
        finally:
            self._now -= 1


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as server:
        yield server


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "FIRST_DELAY_S", 0.001)
    monkeypatch.delenv("VLLM_API_KEY", raising=False)


class Files:
    """An input and an output."""

    def __init__(self, folder: Path, suffix: str = "") -> None:
        self.input = folder / f"in.jsonl{suffix}"
        self.output = folder / f"out.jsonl{suffix}"

    def write(self, *lines: Any) -> None:
        texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
        with self._open(self.input, "wt") as file:
            file.writelines(text + "\n" for text in texts)

    def lines(self) -> list[dict[str, Any]]:
        with self._open(self.output, "rt") as file:
            return [json.loads(line) for line in file]

    def by_line(self) -> dict[int, dict[str, Any]]:
        """Every line once, whatever its place."""
        lines = self.lines()
        found = {line["line"]: line for line in lines}
        assert len(found) == len(lines)
        return found

    def answers(self) -> dict[int, Any]:
        return {number: line["result"]["data"][0] for number, line in self.by_line().items()}

    def _open(self, path: Path, mode: str) -> Any:
        return gzip.open(path, mode) if path.suffix == ".gz" else path.open(mode)

    def words(self, server: FakeServer, *flags: str) -> list[str]:
        return [str(self.input), "-o", str(self.output), "--url", server.url, *flags]


@pytest.fixture(params=["", ".gz"])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> Files:
    return Files(tmp_path, request.param)


@pytest.fixture
def plain(tmp_path: Path) -> Files:
    return Files(tmp_path)


def prompts(count: int, **fields: Any) -> list[dict[str, Any]]:
    return [{"prompt": f"p{n}", "completion": "c", **fields} for n in range(1, count + 1)]


def expected(count: int) -> dict[int, str]:
    return {n: f"p{n}" for n in range(1, count + 1)}


def error(status: int, message: str = "no") -> Response:
    return JSONResponse({"error": {"message": message, "type": "t", "code": status}}, status)


def background(command: str, words: list[str], **options: Any) -> subprocess.Popen[bytes]:
    code = f"""
import sys
from conf_server.batch import {command}, run
run.GRACE_S = {GRACE_S}
sys.exit({command}.main(sys.argv[1:]))
"""
    return subprocess.Popen([sys.executable, "-c", code, *words], **options)


# Answers


def test_every_line_is_answered_once(server: FakeServer, files: Files) -> None:
    files.write(*prompts(100))
    assert score.main(files.words(server)) == 0
    assert files.answers() == expected(100)
    assert set(server.prompts().values()) == {1}


def test_labels_and_metadata_are_carried_and_not_sent(server: FakeServer, plain: Files) -> None:
    kept = {"id": ["a", 1], "correct": None, "reference": "Paris", "metadata": {"é": [1.5]}}
    plain.write({"prompt": "p", "completion": " Paris", "mode": "stats", **kept})
    assert score.main(plain.words(server)) == 0
    (line,) = plain.lines()
    assert {name: line[name] for name in kept} == kept
    assert line["completion"] == " Paris"
    assert line["result"] == {"model": "m", "usage": {}, "object": "score", "data": ["p"]}
    assert server.bodies == [{"prompt": "p", "completion": " Paris", "mode": "stats"}]


def test_requests_under_way_are_bounded(server: FakeServer, plain: Files) -> None:
    plain.write(*prompts(60))
    assert score.main(plain.words(server, "--concurrency", "3")) == 0
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
    assert score.main(plain.words(server, "--progress")) == 0
    assert "3/3" in capfd.readouterr().err


def test_uncertainty_flags_fill_in_what_a_line_leaves_open(
    server: FakeServer, plain: Files
) -> None:
    own = {"methods": ["fast"], "return_samples": True}
    plain.write({"prompt": "a"}, {"prompt": "b", "uncertainty": own})
    flags = ("--methods", "p_true,sar", "--n-samples", "5", "--temperature", "0.7")
    assert uncertainty.main(plain.words(server, *flags, "--similarity", "rouge")) == 0
    asked = {n: line["result"]["asked"] for n, line in plain.by_line().items()}
    common = {"n_samples": 5, "temperature": 0.7, "similarity": "rouge"}
    assert asked == {1: {"methods": ["p_true", "sar"], **common}, 2: {**common, **own}}


def test_without_flags_a_body_is_sent_as_it_is(server: FakeServer, plain: Files) -> None:
    plain.write({"prompt": "a", "n": 1})
    assert uncertainty.main(plain.words(server)) == 0
    assert server.bodies == [{"prompt": "a", "n": 1}]


@pytest.mark.parametrize("source", ["flag", "environment"])
def test_the_key(
    server: FakeServer, plain: Files, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    plain.write(*prompts(1))
    if source == "environment":
        monkeypatch.setenv("VLLM_API_KEY", "secret")
    flags = ("--api-key", "secret") if source == "flag" else ()
    assert score.main(plain.words(server, *flags)) == 0
    assert server.keys == ["Bearer secret"]


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
    assert score.main(plain.words(server)) == 1
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
    assert score.main(plain.words(server)) == 1
    lines = plain.by_line()
    kept = {"line": 1, "id": 7, "error": {"message": "no", "type": "t", "code": status}}
    assert lines[1] == kept
    assert lines[2]["result"]["data"] == ["p2"]


DEEP = PlainTextResponse("[" * 100_000)


def test_a_refusal_too_deep_to_be_read_is_kept_as_text(server: FakeServer, plain: Files) -> None:
    plain.write(*prompts(1))
    server.behave = lambda body: PlainTextResponse(DEEP.body, 400)
    assert score.main(plain.words(server)) == 1
    message = plain.by_line()[1]["error"]["message"]
    assert message == "HTTP 400 " + "[" * 200


def test_a_rerun_tries_failed_lines_again(server: FakeServer, files: Files) -> None:
    files.write(*prompts(5), "{")
    server.behave = lambda body: error(400) if body["prompt"] == "p3" else None
    assert score.main(files.words(server)) == 1
    server.behave = lambda body: None
    files.write(*prompts(6))
    assert score.main(files.words(server)) == 0
    assert files.answers() == expected(6)
    assert server.prompts() == {"p1": 1, "p2": 1, "p3": 2, "p4": 1, "p5": 1, "p6": 1}


def test_no_answer_in_time_fails_the_line(server: FakeServer, plain: Files) -> None:
    server.gate.clear()
    plain.write(prompts(1, wait=True)[0], *prompts(2)[1:])
    assert score.main(plain.words(server, "--timeout", "3")) == 1
    assert plain.by_line()[1]["error"]["message"] == "no answer within 3 s"
    assert plain.by_line()[2]["result"]["data"] == ["p2"]


# The server is away


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_a_busy_server_is_asked_again(server: FakeServer, plain: Files, status: int) -> None:
    plain.write(*prompts(4))
    server.behave = lambda body: error(status) if server.prompts()[body["prompt"]] < 3 else None
    assert score.main(plain.words(server)) == 0
    assert plain.answers() == expected(4)
    assert set(server.prompts().values()) == {3}


def test_a_server_that_stays_busy_stops_the_run(
    server: FakeServer, plain: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    plain.write(*prompts(200))
    server.behave = lambda body: error(503, "full queue") if body["prompt"] != "p1" else None
    flags = ("--retries", "2", "--concurrency", "4")
    assert score.main(plain.words(server, *flags)) == 1
    assert plain.answers() == {1: "p1"}
    assert max(server.prompts().values()) == 3
    assert len(server.prompts()) < 20
    assert "full queue, 3 times" in capsys.readouterr().err
    server.behave = lambda body: None
    assert score.main(plain.words(server)) == 0
    assert plain.answers() == expected(200)


def test_nobody_listens(plain: Files, capsys: pytest.CaptureFixture[str]) -> None:
    with FakeServer() as gone:
        pass
    plain.write(*prompts(50))
    assert score.main(plain.words(gone, "--retries", "1")) == 1
    assert plain.output.read_bytes() == b""
    assert "cannot connect: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (error(401, "Unauthorized"), "Unauthorized; see --api-key"),
        (JSONResponse({"detail": "Not Found"}, 404), "no such route"),
        (error(404, "Not Found"), "no such route"),
        (JSONResponse({"object": "list", "data": []}), "not an answer of conf-server"),
        (PlainTextResponse("hello"), "not an answer of conf-server"),
        (DEEP, "not an answer of conf-server"),
    ],
    ids=["401", "no route", "no route of vLLM", "another score", "no JSON", "depth"],
)
def test_what_no_line_can_mend_stops_the_run_at_once(
    server: FakeServer,
    plain: Files,
    capsys: pytest.CaptureFixture[str],
    answer: Response,
    message: str,
) -> None:
    plain.write(*prompts(500))
    server.behave = lambda body: answer
    assert score.main(plain.words(server, "--concurrency", "2")) == 1
    assert len(server.bodies) <= 4
    assert plain.output.read_bytes() == b""
    assert message in capsys.readouterr().err


def test_a_peer_that_speaks_no_http(plain: Files, capsys: pytest.CaptureFixture[str]) -> None:
    plain.write(*prompts(3))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=greet_as_ssh, args=(listener,))
        thread.start()
        words = [str(plain.input), "-o", str(plain.output)]
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        assert score.main([*words, "--url", url]) == 1
        thread.join()
    assert "no HTTP server" in capsys.readouterr().err


def greet_as_ssh(listener: socket.socket) -> None:
    peer, _ = listener.accept()
    with peer:
        peer.recv(1)
        peer.sendall(b"SSH-2.0-OpenSSH_9\r\n")


def test_https_where_http_is_spoken(
    server: FakeServer, plain: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    plain.write(*prompts(3))
    words = [str(plain.input), "-o", str(plain.output)]
    assert score.main([*words, "--url", server.url.replace("http", "https")]) == 1
    err = capsys.readouterr().err
    assert "SSL" in err
    assert "trying again" not in err


def test_a_server_without_models_is_not_ours(
    server: FakeServer, plain: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    plain.write(*prompts(3))
    assert score.main([*plain.words(server)[:-1], f"{server.url}/elsewhere"]) == 1
    assert "/elsewhere/v1/models: the server has no such route" in capsys.readouterr().err


def test_waiting_is_told_once(
    server: FakeServer, plain: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    plain.write(*prompts(4))
    server.behave = lambda body: (
        error(503, "soon") if server.prompts()[body["prompt"]] < 3 else None
    )
    assert score.main(plain.words(server)) == 0
    assert capsys.readouterr().err.count("/v1/score: soon; trying again") == 1


def test_the_server_says_how_long_to_wait(
    server: FakeServer, plain: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def no_delay(attempt: int, retry_after: str | None, now: object) -> float:
        asked.append((attempt, retry_after))
        return 0.0

    monkeypatch.setattr(client, "retry_delay", no_delay)
    plain.write(*prompts(1))
    full = JSONResponse({}, 429, headers={"Retry-After": "7"})
    server.behave = lambda body: full if len(server.bodies) < 3 else None
    assert score.main(plain.words(server)) == 0
    assert asked == [(0, "7"), (1, "7")]


# Going on


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
    assert score.main(files.words(server)) == 0
    assert files.answers() == expected(count)
    # What was under way, and the torn line.
    assert count - before <= len(server.bodies) - asked <= count - before + 1


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_an_output_cut_anywhere_is_repaired(
    server: FakeServer, tmp_path: Path, suffix: str
) -> None:
    files = Files(tmp_path, suffix)
    files.write(*prompts(3))
    assert score.main(files.words(server, "--concurrency", "1")) == 0
    whole = files.output.read_bytes()
    for size in range(0, len(whole), 7 if suffix else 23):
        files.output.write_bytes(whole[:size])
        assert score.main(files.words(server)) == 0
        assert files.answers() == expected(3)


def test_a_gz_output_grows_by_members(server: FakeServer, tmp_path: Path) -> None:
    files = Files(tmp_path, ".gz")
    for count in (3, 5, 9):
        files.write(*prompts(count))
        assert score.main(files.words(server)) == 0
        assert files.answers() == expected(count)
    assert set(server.prompts().values()) == {1}


def test_a_finished_run_sends_nothing(
    server: FakeServer, files: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    files.write(*prompts(5))
    assert score.main(files.words(server)) == 0
    assert score.main(files.words(server)) == 0
    assert len(server.bodies) == 5
    assert "0 answered, 0 failed, 5 answered before" in capsys.readouterr().err


def test_overwrite(server: FakeServer, files: Files) -> None:
    files.write(*prompts(3))
    files.output.write_bytes(b"something else\n")
    assert score.main(files.words(server)) == 2
    assert files.output.read_bytes() == b"something else\n"
    assert score.main(files.words(server, "--overwrite")) == 0
    assert files.answers() == expected(3)


OTHER_FILES = {
    "text": b"hello\n",
    "text without an end": b"hello",
    "a JSON file": b'{"a": 1}',
    "another tool's output": b'{"id": "a", "response": {}, "error": null}\n',
    "another tool's lines": b'{"line": 1, "error": null}\n',
    "another tool's last line": b'{"line": 1, "text": "hello"}',
    "more than an error": b'{"line": 1, "error": {}, "file": "a.c"}\n',
    "error and result": b'{"line": 1, "error": {}, "result": {}}\n',
    "a long digest": b'{"line": 1, "request": "%s", "server": "s", "result": {}}\n' % (b"f" * 99),
    "a huge line number": b'{"line": 1000000000000, "error": {}}\n',
    "depth": b"[" * 100_000 + b"\n",
}


@pytest.mark.parametrize("content", OTHER_FILES.values(), ids=OTHER_FILES)
def test_somebody_elses_file_stays_as_it_is(
    server: FakeServer, plain: Files, capsys: pytest.CaptureFixture[str], content: bytes
) -> None:
    plain.write(*prompts(3))
    plain.output.write_bytes(content)
    assert score.main(plain.words(server)) == 2
    assert "is no answer of an earlier run; --overwrite starts anew" in capsys.readouterr().err
    assert plain.output.read_bytes() == content
    assert not server.bodies


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
    assert score.main(plain.words(server)) == 0
    before = plain.output.read_bytes()
    plain.write(*lines)
    assert score.main(plain.words(server)) == 2
    assert re.search(
        r"line 1, the command or its flags have changed|ends before line 3",
        capsys.readouterr().err,
    )
    assert plain.output.read_bytes() == before
    assert len(server.bodies) == 3


def test_scores_and_estimates_do_not_mix(server: FakeServer, files: Files) -> None:
    files.write(*prompts(3))
    for main, other in ((score.main, uncertainty.main), (uncertainty.main, score.main)):
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
    assert uncertainty.main(plain.words(server, "--n-samples", "5")) == 1
    before = plain.output.read_bytes()
    server.behave = lambda body: None
    words = plain.words(server, "--n-samples", "20")
    if piped:
        process = background("uncertainty", ["-", *words[1:]], stdin=subprocess.PIPE)
        process.communicate(plain.input.read_bytes(), DEADLINE_S)
        assert process.returncode == 2
    else:
        assert uncertainty.main(words) == 2
    assert plain.output.read_bytes() == before
    assert len(server.bodies) == 9
    assert uncertainty.main(plain.words(server, "--n-samples", "5")) == 0
    asked = {line["result"]["asked"]["n_samples"] for line in plain.by_line().values()}
    assert asked == {5}


def test_labels_of_answered_lines_are_taken_over(server: FakeServer, files: Files) -> None:
    first, second, third = prompts(3)
    files.write({**first, "correct": True, "id": 1}, second, {**third, "reference": "c"})
    assert score.main(files.words(server)) == 0
    results = {number: line["result"] for number, line in files.by_line().items()}
    files.write(
        {**first, "correct": False, "id": 1},
        {**second, "metadata": {"x": [0.1]}},
        {**third, "reference": "d"},
    )
    assert score.main(files.words(server)) == 0
    assert len(server.bodies) == 3
    lines = files.by_line()
    assert (lines[1]["correct"], lines[1]["id"]) == (False, 1)
    assert lines[2]["metadata"] == {"x": [0.1]}
    assert (lines[3]["reference"], lines[3]["completion"]) == ("d", "c")
    assert {number: line["result"] for number, line in lines.items()} == results


@pytest.mark.parametrize(
    ("labels", "lost"),
    [
        ({"correct": True}, "correct"),
        ({"reference": "c"}, "reference"),
        ({"metadata": 1, "id": 1}, "id, metadata"),
    ],
)
def test_a_label_that_the_input_lacks_is_not_thrown_away(
    server: FakeServer,
    plain: Files,
    capsys: pytest.CaptureFixture[str],
    labels: dict[str, Any],
    lost: str,
) -> None:
    plain.write({**prompts(1)[0], **labels})
    assert score.main(plain.words(server)) == 0
    before = plain.output.read_bytes()
    plain.write(*prompts(2))
    assert score.main(plain.words(server)) == 2
    assert f"the answer to line 1 has {lost}, the input's line has not" in capsys.readouterr().err
    assert plain.output.read_bytes() == before
    assert len(server.bodies) == 1


# Which model


@pytest.mark.parametrize(("model", "root"), [("other", "/models/m"), ("m", "/models/other")])
def test_another_model_is_not_mixed_in(
    server: FakeServer, plain: Files, capsys: pytest.CaptureFixture[str], model: str, root: str
) -> None:
    plain.write(*prompts(2))
    assert score.main(plain.words(server)) == 0
    before = plain.output.read_bytes()
    plain.write(*prompts(4))
    server.model, server.root = model, root
    assert score.main(plain.words(server)) == 2
    assert f"its answers are of m (/models/m), not of {model} ({root})" in capsys.readouterr().err
    assert plain.output.read_bytes() == before
    assert len(server.bodies) == 2


def test_another_server_with_the_same_model_goes_on(server: FakeServer, plain: Files) -> None:
    plain.write(*prompts(2))
    assert score.main(plain.words(server)) == 0
    plain.write(*prompts(4))
    with FakeServer() as other:
        assert score.main(plain.words(other)) == 0
    assert plain.answers() == expected(4)


def test_a_line_may_name_its_model(server: FakeServer, plain: Files) -> None:
    plain.write({**prompts(1)[0], "model": "lora"}, *prompts(2)[1:])
    assert score.main(plain.words(server)) == 0
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
    assert score.main(plain.words(server, "--concurrency", "1")) == 1
    assert "line 3: an answer of model 'other'" in capsys.readouterr().err
    assert plain.answers() == expected(2)


def test_answers_of_two_servers_in_one_file(
    server: FakeServer, plain: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    plain.write(*prompts(2))
    assert score.main(plain.words(server)) == 0
    text = plain.output.read_text()
    plain.output.write_text(text.replace("(/models/m)", "(/models/other)", 1))
    assert score.main(plain.words(server)) == 2
    assert "those before are of m (/models/other)" in capsys.readouterr().err


def test_two_runs_do_not_write_to_one_file(
    server: FakeServer, plain: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    plain.write(*prompts(3, wait=True))
    server.gate.clear()
    process = background("score", plain.words(server))
    until(lambda: len(server.bodies) == 3)
    assert score.main(plain.words(server)) == 2
    assert "another run is writing" in capsys.readouterr().err
    server.gate.set()
    assert process.wait(DEADLINE_S) == 0
    assert plain.answers() == expected(3)


def test_the_mode_of_a_rewritten_file_stays(server: FakeServer, plain: Files) -> None:
    plain.write(*prompts(2))
    assert score.main(plain.words(server)) == 0
    plain.output.chmod(0o640)
    plain.output.write_bytes(plain.output.read_bytes()[:-3])
    assert score.main(plain.words(server)) == 0
    assert plain.output.stat().st_mode & 0o777 == 0o640
    assert [path.name for path in plain.output.parent.iterdir() if "out" in path.name] == [
        "out.jsonl"
    ]


# Signals


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
    assert "The same command goes on from here." in log.read_text()
    assert files.answers() == expected(4)
    assert score.main(files.words(server)) == 0
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


def test_a_full_disk_stops_the_run(
    server: FakeServer, plain: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    plain.write(*prompts(50))
    words = [str(plain.input), "-o", "/dev/full", "--url", server.url, "--concurrency", "1"]
    assert score.main(words) == 1
    assert "No space left" in capsys.readouterr().err
    assert len(server.bodies) <= 2


def test_an_input_that_ends_in_the_middle(
    server: FakeServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = Files(tmp_path, ".gz")
    files.write(*prompts(500, metadata=os.urandom(50).hex()))
    files.input.write_bytes(files.input.read_bytes()[:-40])
    assert score.main(files.words(server)) == 1
    assert "in.jsonl.gz" in capsys.readouterr().err
    assert files.answers().items() <= expected(500).items()


# A server of our own


CHILD = """
import os, sys
sys.path.insert(0, {root!r})
import uvicorn
from tests.unit.batch.test_run import FakeServer
print("flags", *sys.argv[1:], flush=True)
if "--broken" in sys.argv:
    sys.exit("no such model")
server = FakeServer()
def die_on_the_third(body):
    if body["prompt"] == "p3":
        print("out of memory", flush=True)
        os._exit(7)
if "--dying" in sys.argv:
    server.behave = die_on_the_third
with open({marker!r}, "w") as file:
    file.write(str(os.getpid()))
(port,) = (word.removeprefix("--port=") for word in sys.argv if word.startswith("--port="))
uvicorn.run(server.app, port=int(port))
"""


@pytest.fixture
def pid_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    marker = tmp_path / "pid"
    code = CHILD.format(root=str(Path(__file__).parents[3]), marker=str(marker))
    monkeypatch.setattr(own_server, "COMMAND", (sys.executable, "-c", code))
    monkeypatch.setattr(server_process, "POLL_S", 0.05)
    return marker


def is_alive(pid_file: Path) -> bool:
    """A process that nobody has reaped yet is not."""
    try:
        status = Path(f"/proc/{int(pid_file.read_text())}/stat").read_text()
    except FileNotFoundError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def log_of(err: str) -> str:
    """The log whose name was printed; it is removed."""
    path = Path(err.split("its log is ")[1].splitlines()[0])
    text = path.read_text()
    path.unlink()
    return text


def test_a_model_is_served_for_the_time_of_the_run(
    plain: Files, pid_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain.write(*prompts(5))
    words = [str(plain.input), "-o", str(plain.output), "--model", "m", "--dtype", "float32"]
    assert score.main(words) == 0
    assert plain.answers() == expected(5)
    assert not is_alive(pid_file)
    log = log_of(capsys.readouterr().err)
    assert "flags --model m --dtype float32 --host=127.0.0.1 --port=" in log


def test_a_model_that_does_not_load(
    plain: Files, pid_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain.write(*prompts(5))
    words = [str(plain.input), "-o", str(plain.output), "--model", "m", "--broken"]
    assert score.main(words) == 1
    err = capsys.readouterr().err
    assert "the server ended with status 1" in err
    assert "no such model" in err
    log_of(err)


@pytest.mark.parametrize("retries", ["0", "1000"])
def test_a_server_that_dies_ends_the_run(
    plain: Files,
    pid_file: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    retries: str,
) -> None:
    monkeypatch.setattr(client, "retry_delay", lambda *_: 1000.0)
    plain.write(*prompts(9))
    words = [str(plain.input), "-o", str(plain.output), "--model", "m", "--dying"]
    assert score.main([*words, "--concurrency", "1", "--retries", retries]) == 1
    assert plain.answers() == expected(2)
    err = capsys.readouterr().err
    assert "the server ended with status 7" in err
    assert "out of memory" in err
    log_of(err)


def test_another_model_or_flag_is_not_mixed_in(
    plain: Files, pid_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain.write(*prompts(2))
    words = [str(plain.input), "-o", str(plain.output), "--model"]
    assert score.main([*words, "m", "--dtype", "float32", "--seed=1"]) == 0
    log_of(capsys.readouterr().err)
    before = plain.output.read_bytes()
    pid_file.unlink()
    for others in (["other", "--dtype", "float32", "--seed=1"], ["m", "--dtype", "float16"]):
        assert score.main([*words, *others]) == 2
        assert "its answers are of m --dtype float32 --seed 1, not of" in capsys.readouterr().err
    assert plain.output.read_bytes() == before
    assert not pid_file.exists()
    plain.write(*prompts(3))
    again = ["m", "--seed", "1", "--dtype=float32", "--gpu-memory-utilization", "0.5"]
    assert score.main([*words, *again]) == 0
    assert plain.answers() == expected(3)
    log_of(capsys.readouterr().err)


def test_a_lost_label_is_told_before_a_model_is_loaded(
    plain: Files, pid_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(plain.input), "-o", str(plain.output), "--model", "m"]
    plain.write(*prompts(2, correct=True))
    assert score.main(words) == 0
    log_of(capsys.readouterr().err)
    before = plain.output.read_bytes()
    pid_file.unlink()
    plain.write(*prompts(2))
    assert score.main(words) == 2
    assert "the answer to line 1 has correct" in capsys.readouterr().err
    assert plain.output.read_bytes() == before
    assert not pid_file.exists()


def test_the_server_goes_when_the_run_fails(
    plain: Files, pid_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain.write(*prompts(5))
    words = [str(plain.input), "-o", "/dev/full", "--model", "m"]
    assert score.main(words) == 1
    assert not is_alive(pid_file)
    log_of(capsys.readouterr().err)


def test_the_server_does_not_outlive_a_killed_run(plain: Files, pid_file: Path) -> None:
    plain.write(*prompts(1, wait=True))
    code = f"""
import sys
from conf_server.batch import own_server, score
own_server.COMMAND = {own_server.COMMAND!r}
score.main(sys.argv[1:])
"""
    words = [str(plain.input), "-o", str(plain.output), "--model", "m"]
    process = subprocess.Popen([sys.executable, "-c", code, *words], stderr=subprocess.PIPE)
    until(lambda: pid_file.exists() and pid_file.read_text() != "")
    assert is_alive(pid_file)
    process.kill()
    _, err = process.communicate()
    until(lambda: not is_alive(pid_file))
    log_of(err.decode())


# Usage


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["in"], "-o/--output"),
        (["in", "-o", "out", "--dtype", "float32"], "unrecognized arguments"),
        (["in", "-o", "out", "--url", "u", "--model", "m"], "give one of them"),
        (["in", "-o", "out", "--url", "localhost:8000"], "must begin with http"),
        (["in", "-o", "out", "--url", "http://:8000"], "names no host"),
        (["in", "-o", "out", "--url", "http://localhost:99999"], "Port out of range"),
        (["in", "-o", "out", "--url", "http://[::1"], "Invalid IPv6 URL"),
        (["in", "-o", "out", "--url", f"http://{'a' * 70}.com"], "label empty or too long"),
        (["in", "-o", "out", "--model", "m", "--port=9"], "--port: with --model"),
        (["in", "-o", "out", "--model", "m", "--api-key", "k"], "VLLM_API_KEY"),
        (["in", "-o", "out", "--concurrency", "0"], "at least 1"),
        (["in", "-o", "out", "--retries", "-1"], "whole number"),
        (["in", "-o", "out", "--timeout", "nan"], "above 0"),
    ],
)
def test_bad_usage(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        score.main(words)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_files_that_cannot_be(
    server: FakeServer, plain: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    assert score.main(plain.words(server)) == 2
    assert "in.jsonl: No such file" in capsys.readouterr().err
    plain.write(*prompts(1))
    assert score.main([str(plain.input), "-o", "/nowhere/out", "--url", server.url]) == 2
    with pytest.raises(SystemExit):
        score.main([str(plain.input), "-o", str(plain.input), "--url", server.url])
    assert plain.input.read_bytes().count(b"\n") == 1
