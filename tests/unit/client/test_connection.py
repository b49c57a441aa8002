"""What goes wrong between client and server: the same for both clients."""

from __future__ import annotations

import socket
import threading
from typing import Any

import pytest
from starlette.responses import JSONResponse, PlainTextResponse

from conf_server.client import ServerError, UnavailableError, retries
from tests.unit.batch.fake_server import error
from tests.unit.client.answering_server import AnsweringServer
from tests.unit.client.conftest import Connect

ONE = {"prompt": "p", "completion": "c"}


def test_an_error_is_openai_s(client: Any, server: AnsweringServer) -> None:
    said = {"message": "too long", "type": "BadRequestError", "param": "prompt", "code": 400}
    server.behave = lambda body: JSONResponse({"error": said}, 400)
    with pytest.raises(ServerError) as caught:
        client.score(**ONE)
    found = caught.value
    assert not isinstance(found, UnavailableError)
    assert str(found) == "too long"
    assert (found.message, found.type, found.param) == ("too long", "BadRequestError", "prompt")
    assert (found.code, found.status, found.error) == (400, 400, said)
    assert len(server.bodies) == 1


def test_an_error_of_one_of_many_says_of_which(client: Any, server: AnsweringServer) -> None:
    server.behave = lambda body: error(400) if body["items"][0]["prompt"] == "p4" else None
    items = [{"prompt": f"p{n}", "completion": "c"} for n in range(6)]
    with pytest.raises(ServerError) as caught:
        client.score(items=items, batch_size=2)
    assert caught.value.__notes__ == ["in a request of items 4 to 5, counted from 0"]


def test_a_body_without_an_error_object(client: Any, server: AnsweringServer) -> None:
    server.behave = lambda body: PlainTextResponse("oops", 500)
    with pytest.raises(ServerError, match="HTTP 500 oops") as caught:
        client.score(**ONE)
    assert (caught.value.type, caught.value.status) == ("http", 500)


def test_a_body_that_is_no_object(client: Any) -> None:
    with pytest.raises(ServerError, match="/text: not a JSON object"):
        client.get("/text")


def test_a_route_that_is_missing(client: Any) -> None:
    with pytest.raises(ServerError) as caught:
        client.get("/nowhere")
    assert caught.value.is_missing_route


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_a_busy_server_is_asked_again(
    connect: Connect, server: AnsweringServer, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    asked = []

    def no_delay(attempt: int, retry_after: str | None, now: object) -> float:
        asked.append((attempt, retry_after))
        return 0.0

    monkeypatch.setattr(retries, "retry_delay", no_delay)
    busy = JSONResponse({}, status, headers={"Retry-After": "7"})
    server.behave = lambda body: busy if len(server.bodies) < 3 else None
    told: list[UnavailableError] = []
    assert connect(server.url, on_retry=told.append).score(**ONE).logprob == -1.0
    assert asked == [(0, "7"), (1, "7")]
    assert [one.status for one in told] == [status, status]


def test_a_server_that_stays_busy(connect: Connect, server: AnsweringServer) -> None:
    server.behave = lambda body: error(503, "full queue")
    with pytest.raises(UnavailableError, match="/v1/score: full queue, 3 times") as caught:
        connect(server.url, retries=2).score(**ONE)
    assert (caught.value.attempts, caught.value.status, len(server.bodies)) == (3, 503, 3)


def test_one_failure_of_many_ends_the_wait_of_the_others(
    connect: Connect, server: AnsweringServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retries, "retry_delay", lambda *_: 3600.0)
    server.behave = lambda body: error(503) if body["prompt"] == "busy" else error(400, "wrong")
    with pytest.raises(ServerError, match="wrong"):
        connect(server.url).uncertainty(items=[{"prompt": "busy"}, {"prompt": "bad"}])


def test_nobody_listens(connect: Connect) -> None:
    with AnsweringServer() as gone:
        pass
    with pytest.raises(UnavailableError, match=r"cannot connect: .*, 2 times") as caught:
        connect(gone.url, retries=1).score(**ONE)
    assert caught.value.status is None
    assert caught.value.type == "connection"


def test_no_such_host(connect: Connect) -> None:
    with pytest.raises(UnavailableError, match="cannot connect: "):
        connect("http://nowhere.invalid", retries=0).get("/version")


def test_no_answer_in_time(connect: Connect, server: AnsweringServer) -> None:
    server.gate.clear()
    with pytest.raises(ServerError, match=r"no answer within 0\.5 s") as caught:
        connect(server.url, timeout=0.5, model="m").score(**ONE, wait=True)
    assert caught.value.type == "timeout"
    assert not isinstance(caught.value, UnavailableError)


ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


@pytest.mark.parametrize(
    "first",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-",
        ANSWER + b"Content-Length: 9\r\n\r\n{",
        ANSWER + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{",
    ],
    ids=["nothing", "half a head", "half a body", "half a chunk"],
)
def test_a_connection_that_breaks_is_tried_again(connect: Connect, first: bytes) -> None:
    whole = ANSWER + b'Content-Length: 8\r\n\r\n{"a": 1}'
    with peer(first, whole) as url:
        assert connect(url).get("/x") == {"a": 1}


def test_a_peer_that_breaks_off_is_given_up(connect: Connect) -> None:
    with peer(b"") as url, pytest.raises(UnavailableError) as caught:
        connect(url, retries=0).get("/x")
    assert caught.value.type == "connection"


def test_a_peer_that_speaks_no_http(connect: Connect) -> None:
    with peer(b"SSH-2.0-OpenSSH_9\r\n\r\n") as url, pytest.raises(ServerError) as caught:
        connect(url).get("/x")
    assert caught.value.type == "protocol"


def test_a_connection_that_the_server_has_closed_is_not_used_again(
    connect: Connect, server: AnsweringServer
) -> None:
    whole = ANSWER + b'Content-Length: 8\r\n\r\n{"a": 1}'
    closed = threading.Event()
    with peer(whole, whole, closed=closed) as url:
        client = connect(url, retries=0)
        assert client.get("/x") == {"a": 1}
        # A client that asks before the end of the connection has arrived can't know of it.
        assert closed.wait(5.0)
        assert client.get("/x") == {"a": 1}


class peer:  # noqa: N801 (used like a function)
    """Says something once on each connection, hangs up, and sets `closed` when it first has."""

    def __init__(self, *said: bytes, closed: threading.Event | None = None) -> None:
        self._said = said
        self._closed = closed or threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        # A test that asks fewer times than expected fails, and is not waited for.
        self._listener.settimeout(5.0)
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        for text in self._said:
            try:
                connection, _ = self._listener.accept()
            except TimeoutError:
                return
            with connection, connection.makefile("rb") as request:
                while request.readline().strip():
                    pass
                connection.sendall(text)
            self._closed.set()

    def __enter__(self) -> str:
        self._thread.start()
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __exit__(self, *_: object) -> None:
        self._thread.join()
        self._listener.close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"base_url": "localhost:8000"}, "http://"),
        ({"base_url": "http://"}, "names no host"),
        ({"base_url": "http://a?b=c"}, "address alone"),
        ({"base_url": "http://a:port"}, "base_url"),
        ({"api_key": "a\nb"}, "api_key"),
        ({"timeout": 0}, "timeout"),
        ({"concurrency": 0}, "concurrency"),
        ({"retries": -1}, "retries"),
    ],
)
def test_arguments_that_cannot_be(connect: Connect, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        connect(**options)


def test_the_key_and_redirects(connect: Connect, server: AnsweringServer) -> None:
    client = connect(server.url, api_key="sécret")
    client.score(**ONE)
    assert server.keys == ["Bearer sécret".encode().decode("latin-1")]
    assert client.get("/moved") == {"version": "1"}
