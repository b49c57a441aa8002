"""The flags of `conf-server --backend transformers`."""

from __future__ import annotations

import pytest

from conf_server import cli, installation
from conf_server.settings import SettingsError
from conf_server.small_server.server_options import ServerOptions, parse_options


def parsed(*flags: str, **environ: str) -> ServerOptions:
    return parse_options(["--model=m", *flags], environ)


def test_defaults() -> None:
    options = parsed()
    assert (options.model, options.names, options.port) == ("m", ("m",), 8000)
    assert (options.keys, options.drain_s, options.settings.top_k) == ((), 30, 20)
    assert options.loading["max_logprobs"] == 20
    assert "dtype" not in options.loading  # the backend knows its own defaults


def test_flags_are_vllms_and_ours() -> None:
    options = parsed(
        *("--served-model-name", "a", "b", "--max_model_len", "64", "--api-key", "k1", "k2"),
        *("--confidence-mode=stats", "--enable-hidden-states", "--max-attention-bytes=9"),
        *("--quantization", "int8", "--disable-uvicorn-access-log", "--shutdown-timeout=0"),
    )
    assert (options.names, options.keys) == (("a", "b"), ("k1", "k2"))
    assert (options.settings.mode, options.settings.enable_hidden_states) == ("stats", True)
    assert options.loading["max_len"] == 64
    assert options.loading["max_attention_bytes"] == 9
    assert options.loading["quantization"] == "int8"
    assert (options.access_log, options.drain_s) == (False, 0)


def test_candidates_are_at_least_the_confidences() -> None:
    assert parsed("--confidence-top-k=64").loading["max_logprobs"] == 64
    assert parsed("--confidence-top-k=64", "--max-logprobs=-1").loading["max_logprobs"] == -1


def test_the_model_may_stand_alone() -> None:
    assert parse_options(["m"], {}).model == "m"


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (["--tensor-parallel-size", "2"], "--tensor-parallel-size: not available with --backend"),
        (["--enable_lora"], "--enable-lora: not available with --backend transformers"),
        (["--logprobs-encoder=vllm"], "--logprobs-encoder: not available with --backend"),
        (["--model="], "--model: must not be empty"),
        (["a", "b"], "b: it belongs to no flag"),
        (["--port=x"], "argument --port: invalid int value: 'x'"),
        (["--shutdown-timeout=-1"], "--shutdown-timeout: must not be below 0"),
        (["--confidence-mode=all"], "--confidence-mode: must be one of"),
        (["--fitted=/nowhere", "--enable-hidden-states"], "--fitted: "),
    ],
)
def test_what_cannot_be_meant_is_refused(flags: list[str], problem: str) -> None:
    with pytest.raises(SettingsError) as refused:
        parsed(*flags)
    assert str(refused.value).startswith(problem)


@pytest.mark.parametrize("words", [["--backend", "transformers"], ["--backend=transformers"]])
@pytest.mark.parametrize("command", [[], ["serve"]])
def test_the_command_line_chooses_the_backend(
    words: list[str], command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([*command, "m", *words, "--pipeline-parallel-size=2"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    problem = "--pipeline-parallel-size: not available with --backend transformers"
    assert line == f"conf-server: error: {problem}"


def test_another_backend_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["m", "--backend", "sglang"]) == 2
    problem = "--backend: must be one of vllm, transformers, got 'sglang'"
    assert capsys.readouterr().err == f"conf-server: error: {problem}\n"


def test_vllm_may_be_named() -> None:
    assert cli.chosen_backend(["m", "--backend=vllm", "--port=9"]) == ("vllm", ["m", "--port=9"])


def test_what_is_missing_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(installation, "SMALL_SERVER", ("torch", "no_such_package"))
    assert cli.main(["m", "--backend=transformers"]) == 2
    error = capsys.readouterr().err
    assert f"no_such_package not installed: {installation.installing('transformers')}" in error
