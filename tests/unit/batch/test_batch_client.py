"""How the client asks a server that is away, is busy, or is no conf-server."""

from __future__ import annotations

import socket
import threading
from datetime import UTC, datetime

import pytest
from starlette.responses import JSONResponse, PlainTextResponse, Response

from conf_server.batch import command
from conf_server.batch.endpoint import SCORE
from conf_server.batch.options import parse_options
from conf_server.client import retries
from conf_server.client.retries import retry_delay
from tests.unit.batch.fake_server import DEEP, FakeServer, error
from tests.unit.batch.runs import Files, expected, prompts


@pytest.mark.parametrize("source", ["flag", "environment"])
def test_the_key(
    server: FakeServer, plain: Files, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    plain.write(*prompts(1))
    if source == "environment":
        monkeypatch.setenv("VLLM_API_KEY", "secret")
    flags = ("--api-key", "secret") if source == "flag" else ()
    assert command.score(plain.words(server, *flags)) == 0
    assert server.keys == ["Bearer secret"]


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_a_busy_server_is_asked_again(server: FakeServer, plain: Files, status: int) -> None:
    plain.write(*prompts(4))
    server.behave = lambda body: error(status) if server.prompts()[body["prompt"]] < 3 else None
    assert command.score(plain.words(server)) == 0
    assert plain.answers() == expected(4)
    assert set(server.prompts().values()) == {3}


def test_a_server_that_stays_busy_stops_the_run(
    server: FakeServer, plain: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    plain.write(*prompts(200))
    server.behave = lambda body: error(503, "full queue") if body["prompt"] != "p1" else None
    flags = ("--retries", "2", "--concurrency", "4")
    assert command.score(plain.words(server, *flags)) == 1
    assert plain.answers() == {1: "p1"}
    assert max(server.prompts().values()) == 3
    assert len(server.prompts()) < 20
    assert "full queue, 3 times" in capsys.readouterr().err
    server.behave = lambda body: None
    assert command.score(plain.words(server)) == 0
    assert plain.answers() == expected(200)


def test_nobody_listens(plain: Files, capsys: pytest.CaptureFixture[str]) -> None:
    with FakeServer() as gone:
        pass
    plain.write(*prompts(50))
    assert command.score(plain.words(gone, "--retries", "1")) == 1
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
    assert command.score(plain.words(server, "--concurrency", "2")) == 1
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
        assert command.score([*words, "--url", url]) == 1
        thread.join()
    assert "no HTTP server" in capsys.readouterr().err


def greet_as_ssh(listener: socket.socket) -> None:
    peer, _ = listener.accept()
    with peer:
        peer.recv(1)
        peer.sendall(b"SSH-2.0-OpenSSH_9\r\n\r\n")


def test_https_where_http_is_spoken(
    server: FakeServer, plain: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    plain.write(*prompts(3))
    words = [str(plain.input), "-o", str(plain.output)]
    assert command.score([*words, "--url", server.url.replace("http", "https")]) == 1
    err = capsys.readouterr().err
    assert "SSL" in err
    assert "trying again" not in err


def test_a_server_without_models_is_not_ours(
    server: FakeServer, plain: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    plain.write(*prompts(3))
    assert command.score([*plain.words(server)[:-1], f"{server.url}/elsewhere"]) == 1
    assert "/elsewhere/v1/models: the server has no such route" in capsys.readouterr().err


def test_waiting_is_told_once(
    server: FakeServer, plain: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    plain.write(*prompts(4))
    server.behave = lambda body: (
        error(503, "soon") if server.prompts()[body["prompt"]] < 3 else None
    )
    assert command.score(plain.words(server)) == 0
    assert capsys.readouterr().err.count("/v1/score: soon; trying again") == 1


def test_the_server_says_how_long_to_wait(
    server: FakeServer, plain: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def no_delay(attempt: int, retry_after: str | None, now: object) -> float:
        asked.append((attempt, retry_after))
        return 0.0

    monkeypatch.setattr(retries, "retry_delay", no_delay)
    plain.write(*prompts(1))
    full = JSONResponse({}, 429, headers={"Retry-After": "7"})
    server.behave = lambda body: full if len(server.bodies) < 3 else None
    assert command.score(plain.words(server)) == 0
    assert asked == [(0, "7"), (1, "7")]


def test_by_default_a_restart_is_outlasted() -> None:
    most = parse_options(SCORE, ["in", "-o", "out"]).retries
    now = datetime.now(UTC)
    assert sum(retry_delay(attempt, None, now) for attempt in range(most)) >= 120
