"""Lines of the input: what is sent of them, what is kept, which labels are refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from conf_server.batch import command
from conf_server.batch.endpoint import SCORE, UNCERTAINTY, Endpoint
from conf_server.batch.records import Record, parse_record
from tests.unit.batch.fake_server import FakeServer
from tests.unit.batch.runs import Files, prompts


def record(endpoint: Endpoint, **body: Any) -> Record:
    return parse_record(endpoint, 1, json.dumps(body).encode(), {})


@pytest.mark.parametrize("label", [{"reference": "a"}, {"correct": [True, False]}])
def test_lines_with_a_label_keep_the_texts_that_the_report_shows(label: dict[str, Any]) -> None:
    completions = ["a", "b"]
    kept = record(SCORE, prompt="p", completions=completions, **label).kept
    assert kept == {"completions": completions, **label}
    assert record(UNCERTAINTY, prompt="p", **label).kept == {"prompt": "p", **label}
    messages = [{"role": "user", "content": "p"}]
    assert record(UNCERTAINTY, messages=messages, **label).kept == {"messages": messages, **label}
    assert record(UNCERTAINTY, prompt="p", metadata=1).kept == {"metadata": 1}


BAD_LABELS = {
    "an empty reference": ({"reference": ""}, "`reference` has a text of which nothing is left"),
    "a number": ({"reference": 42}, "`reference` must be a text or a list of texts"),
    "a number in a list": ({"reference": ["a", 42]}, "`reference` must be a text or a list"),
    "punctuation alone": ({"reference": ["a", "?!"]}, "`reference` has a text of which nothing"),
    "a word": ({"correct": "yes"}, "`correct` must be true or false"),
    "a list of numbers": ({"correct": [1]}, "`correct` must be true or false"),
    "two for one": ({"correct": [True, False]}, "`correct` has 2 values for 1 answers"),
}


@pytest.mark.parametrize("name", BAD_LABELS)
@pytest.mark.parametrize("run", [command.score, command.uncertainty])
def test_a_label_that_is_of_no_use_costs_no_answer(
    server: FakeServer, plain: Files, capsys: pytest.CaptureFixture[str], name: str, run: Any
) -> None:
    label, message = BAD_LABELS[name]
    plain.write({**prompts(1)[0], **label}, *prompts(2)[1:])
    assert run(plain.words(server)) == 1
    assert [body["prompt"] for body in server.bodies] == ["p2"]
    assert message in plain.by_line()[1]["error"]["message"]
    assert f"line 1: {message}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("correct", "message"),
    [
        ([True, False], None),
        ([None, None], None),
        (None, None),
        (True, "one `correct` for 2 answers; give a list"),
        ([True], "`correct` has 1 values for 2 answers"),
    ],
)
def test_several_completions_have_several_labels(
    server: FakeServer, plain: Files, correct: Any, message: str | None
) -> None:
    plain.write({"prompt": "p", "completions": ["a", "b"], "correct": correct})
    assert command.score(plain.words(server)) == (1 if message else 0)
    found = plain.by_line()[1].get("error")
    assert (found and found["message"]) == message


@pytest.mark.parametrize("label", [{"reference": None}, {"reference": []}, {"correct": None}])
def test_a_label_may_be_unknown(server: FakeServer, plain: Files, label: dict[str, Any]) -> None:
    plain.write({**prompts(1)[0], **label})
    assert command.score(plain.words(server)) == 0
