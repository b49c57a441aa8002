"""The command line of the batch commands."""

from __future__ import annotations

from pathlib import Path

import pytest

from conf_server.batch import command
from conf_server.batch.options import served_model
from tests.unit.batch.fake_server import FakeServer
from tests.unit.batch.runs import Files, prompts


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["in"], "-o/--output"),
        (["in", "-o", "out", "--dtype", "float32"], "unrecognized arguments"),
        (["in", "-o", "out", "--concurency", "3"], "did you mean --concurrency?"),
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
        command.score(words)
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_files_that_cannot_be(
    server: FakeServer, plain: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.score(plain.words(server)) == 2
    assert "in.jsonl: No such file" in capsys.readouterr().err
    plain.write(*prompts(1))
    assert command.score([str(plain.input), "-o", "/nowhere/out", "--url", server.url]) == 2
    said = capsys.readouterr().err
    assert said == "conf-server score: error: -o /nowhere/out: no such folder: /nowhere\n"
    with pytest.raises(SystemExit):
        command.score([str(plain.input), "-o", str(plain.input), "--url", server.url])
    assert plain.input.read_bytes().count(b"\n") == 1


# What --model serves


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("VLLM_CONF_MODE", "VLLM_CONF_TOPK"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    "flags",
    [
        ["--max-model-len", "4096", "--dtype=float32"],
        ["--dtype", "float32", "--max_model_len", "4096"],
        ["--dtype", "float32", "--max-num-seqs", "8", "--max-model-len=4096", "--hf-token", "x"],
    ],
)
def test_the_same_model_however_it_is_said(flags: list[str]) -> None:
    assert served_model("m", flags) == "m --dtype float32 --max-model-len 4096"


@pytest.mark.parametrize(
    ("model", "flags"),
    [
        ("other", ["--seed", "1", "--enforce-eager"]),
        ("m", ["--seed", "-1", "--enforce-eager"]),
        ("m", ["--seed", "1", "--no-enforce-eager"]),
        ("m", ["--seed", "1"]),
        ("m", ["--seed", "1", "--enforce-eager", "--lora-modules", "a=b"]),
    ],
)
def test_another_model_or_other_flags(model: str, flags: list[str]) -> None:
    assert served_model(model, flags) != served_model("m", ["--seed", "1", "--enforce-eager"])


def test_a_folder_is_told_by_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "link").symlink_to("m")
    monkeypatch.chdir(tmp_path)
    assert served_model("./m", []) == served_model("link", []) == str((tmp_path / "m").resolve())


def test_settings_from_the_environment_count(monkeypatch: pytest.MonkeyPatch) -> None:
    before = served_model("m", [])
    monkeypatch.setenv("VLLM_CONF_TOPK", "5")
    assert served_model("m", []) != before
