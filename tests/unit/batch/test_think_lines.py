"""`conf-server think`: what is sent for a line, and what is written."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.responses import Response

from conf_server.batch import command
from tests.unit.batch.fake_server import FakeServer, error
from tests.unit.batch.runs import Files


def chat(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def test_a_prompt_is_the_message_of_a_chat(server: FakeServer, plain: Files) -> None:
    plain.write({"prompt": "1 + 1?", "max_tokens": 9}, {"messages": chat("2 + 2?")})
    assert command.think(plain.words(server)) == 0
    assert sorted(server.bodies, key=lambda body: str(body["messages"])) == [
        {"messages": chat("1 + 1?"), "max_tokens": 9},
        {"messages": chat("2 + 2?")},
    ]
    answers = {n: line["result"]["think"]["answer"] for n, line in plain.by_line().items()}
    assert answers == {1: "1 + 1?", 2: "2 + 2?"}


def test_the_line_s_own_fields_of_think_win(server: FakeServer, plain: Files) -> None:
    own = {"budget": 4, "answer": {"extract": "text"}}
    plain.write({"prompt": "a", "think": own}, {"prompt": "b"})
    flags = ("--budget", "8", "--extract", "regex", "--pattern", "x", "--vote", "majority")
    assert command.think(plain.words(server, *flags)) == 0
    asked = {body["messages"][0]["content"]: body["think"] for body in server.bodies}
    assert asked == {
        "a": {"vote": ["majority"], **own},
        "b": {
            **{"budget": 8, "vote": ["majority"]},
            "answer": {"extract": "regex", "pattern": "x"},
        },
    }


def test_labels_stay_here_and_the_question_is_repeated_beside_them(
    server: FakeServer, plain: Files
) -> None:
    kept = {"id": 7, "reference": "2", "metadata": {"topic": "sums"}}
    plain.write({"prompt": "1 + 1?", **kept})
    assert command.think(plain.words(server)) == 0
    assert server.bodies == [{"messages": chat("1 + 1?")}]
    (line,) = plain.lines()
    assert {name: line[name] for name in (*kept, "messages")} == {
        **kept,
        "messages": chat("1 + 1?"),
    }
    assert line["result"]["object"] == "chat.completion"


BAD_LINES: dict[str, tuple[dict[str, Any], str]] = {
    "both": ({"prompt": "a", "messages": chat("a")}, "give either `prompt` or `messages`"),
    "ids": ({"prompt": [1, 2]}, "`prompt`: must be a text"),
    "question": ({"question": "a"}, "`question`: its name is `prompt`"),
    "answer": ({"prompt": "a", "answer": "b"}, "`answer`: the right answer is `reference`"),
    "stream": ({"prompt": "a", "stream": True}, "one line has one answer"),
}


@pytest.mark.parametrize("name", BAD_LINES)
def test_a_bad_line_is_told_and_the_others_are_answered(
    server: FakeServer, plain: Files, name: str
) -> None:
    line, message = BAD_LINES[name]
    plain.write(line, {"prompt": "good"})
    assert command.think(plain.words(server)) == 1
    assert [body["messages"] for body in server.bodies] == [chat("good")]
    assert message in plain.by_line()[1]["error"]["message"]


def test_the_same_command_asks_what_has_failed(server: FakeServer, plain: Files) -> None:
    plain.write(*({"prompt": text} for text in "abc"))

    def refuses_b(body: dict[str, Any]) -> Response | None:
        return error(400, "too long") if body["messages"] == chat("b") else None

    server.behave = refuses_b
    assert command.think(plain.words(server, "--budget", "4")) == 1
    assert plain.by_line()[2]["error"]["message"] == "too long"
    server.bodies.clear()
    server.behave = lambda body: None
    assert command.think(plain.words(server, "--budget", "4")) == 0
    assert [body["messages"] for body in server.bodies] == [chat("b")]
    assert sorted(plain.by_line()) == [1, 2, 3]


def test_another_budget_is_another_run(
    server: FakeServer, plain: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    plain.write({"prompt": "a"})
    assert command.think(plain.words(server, "--budget", "4")) == 0
    assert command.think(plain.words(server, "--budget", "8")) == 2
    assert "the command or its flags have changed" in capsys.readouterr().err
    assert len(server.bodies) == 1
