"""What --methods and --similarity name is looked up once, before any line is sent."""

from __future__ import annotations

import pytest

from conf_server.batch import command
from tests.unit.batch.fake_server import FakeServer
from tests.unit.batch.runs import Files, prompts

ASKED = ({"methods": ["fast", "sar"]}, {"similarity": "jaccard"})


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--methods", "fast,perplexty"], "or group 'perplexty'; did you mean perplexity?"),
        (["--methods", "nothing_like_it"], "the server has no method or group 'nothing_like_it'"),
        (["--similarity", "rouje"], "--similarity: nothing named 'rouje' compares texts"),
    ],
)
def test_a_wrong_name_is_told_once_and_nothing_is_sent(
    server: FakeServer,
    plain: Files,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    message: str,
) -> None:
    plain.write(*prompts(50))
    assert command.uncertainty(plain.words(server, *words)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert server.bodies == []
    assert plain.lines() == []


def test_a_method_that_the_server_cannot_do_is_refused_with_its_reason(
    server: FakeServer, plain: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    plain.write(*prompts(50))
    server.methods[1] |= {"available": False, "reason": "needs a thing", "needs": ["p_true"]}
    assert command.uncertainty(plain.words(server, "--methods", "perplexity,p_true")) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("error: --methods p_true: needs a thing")
    assert server.bodies == []


def test_a_method_that_another_similarity_makes_possible_is_left_to_the_lines(
    server: FakeServer, plain: Files
) -> None:
    plain.write(*prompts(1, uncertainty={"similarity": "jaccard"}))
    server.methods[2] |= {"available": False, "reason": "no judge", "needs": ["judgements"]}
    assert command.uncertainty(plain.words(server, "--methods", "fast,sar")) == 0
    (body,) = server.bodies
    assert body["uncertainty"] == ASKED[0] | ASKED[1]


def test_an_answer_that_is_none_of_ours_stops_the_run(
    server: FakeServer, plain: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    plain.write(*prompts(2))
    server.methods = {}  # type: ignore[assignment]
    assert command.uncertainty(plain.words(server, "--methods", "sar")) == 1
    assert "the answer is none of conf-server's" in capsys.readouterr().err
    assert not server.bodies
