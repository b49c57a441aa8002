"""Confidence options: which value wins, which is refused, and in what words."""

import subprocess
import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from conf_server import cli, flags
from conf_server.settings import ConfidenceSettings, SettingsError, add_cli_args


def resolve(*flags: str, **environ: str) -> ConfidenceSettings:
    parser = ArgumentParser()
    add_cli_args(parser)
    return ConfidenceSettings.from_args(parser.parse_args(flags), environ)


def test_defaults() -> None:
    assert resolve() == ConfidenceSettings(
        mode="per_token", top_k=20, window=2048, max_score_items=1024
    )


@pytest.mark.parametrize(
    ("flags", "environ", "mode", "top_k"),
    [
        ([], {"VLLM_CONF_MODE": "stats"}, "stats", 20),
        ([], {"VLLM_CONF_TOPK": "5"}, "per_token", 5),
        (["--confidence-mode=empty"], {}, "empty", 20),
        (["--confidence-top-k=7"], {}, "per_token", 7),
        (["--confidence-mode=summary"], {"VLLM_CONF_MODE": "stats"}, "summary", 20),
        (["--confidence-top-k=7"], {"VLLM_CONF_TOPK": "5"}, "per_token", 7),
        # The default, given as a flag, still beats the environment.
        (["--confidence-mode=per_token"], {"VLLM_CONF_MODE": "stats"}, "per_token", 20),
        (["--confidence-top-k=20"], {"VLLM_CONF_TOPK": "5"}, "per_token", 20),
        # One does not decide for the other.
        (["--confidence-mode=empty"], {"VLLM_CONF_TOPK": "5"}, "empty", 5),
        # As in a unit file: a variable set to nothing is not set.
        ([], {"VLLM_CONF_MODE": "", "VLLM_CONF_TOPK": ""}, "per_token", 20),
    ],
)
def test_flag_then_environment_then_default(
    flags: list[str], environ: dict[str, str], mode: str, top_k: int
) -> None:
    settings = resolve(*flags, **environ)
    assert (settings.mode, settings.top_k) == (mode, top_k)


def test_window_and_items_come_from_their_flags() -> None:
    settings = resolve("--confidence-window=64", "--max-score-items=3")
    assert (settings.window, settings.max_score_items) == (64, 3)


@pytest.mark.parametrize(
    "name", ["max_score_entries", "max_forced_tokens", "max_body_bytes", "max_engine_silence"]
)
def test_a_limit_comes_from_its_flag_and_is_positive(name: str) -> None:
    flag = f"--{name.replace('_', '-')}"
    assert getattr(resolve(f"{flag}=7"), name) == 7
    with pytest.raises(SettingsError, match=flag):
        resolve(f"{flag}=0")


def test_hidden_states_are_off_unless_wanted() -> None:
    assert not resolve().enable_hidden_states
    assert resolve().max_hidden_state_values == 16_777_216
    settings = resolve("--enable-hidden-states", "--max-hidden-state-values=9")
    assert settings.enable_hidden_states
    assert settings.max_hidden_state_values == 9


def test_a_fit_wants_hidden_states() -> None:
    assert resolve("--enable-hidden-states", "--fitted=/fits/smol").fitted == "/fits/smol"
    assert resolve().fitted is None
    with pytest.raises(SettingsError, match=r"^--fitted: .*--enable-hidden-states"):
        resolve("--fitted=/fits/smol")
    beside = Namespace(scorer="transformers", fitted="/fits/smol")
    assert ConfidenceSettings.from_args(beside, {}).fitted == "/fits/smol"


@pytest.mark.parametrize("value", ["0", "-1", "abc", "", "1.5", "1e3"])
@pytest.mark.parametrize(
    "flag",
    [
        "--confidence-top-k",
        "--confidence-window",
        "--max-score-items",
        "--max-hidden-state-values",
    ],
)
def test_a_bad_number_is_refused_by_its_flags_name(flag: str, value: str) -> None:
    with pytest.raises(SettingsError, match=rf"^{flag}: .*{value!r}"):
        resolve(f"{flag}={value}")


@pytest.mark.parametrize("value", ["verbose", "Stats", "", "stats "])
def test_an_unknown_mode_is_refused_with_the_known_ones(value: str) -> None:
    known = "per_token, summary, stats, empty"
    with pytest.raises(SettingsError, match=rf"^--confidence-mode: .*{known}.*{value!r}"):
        resolve(f"--confidence-mode={value}")


@pytest.mark.parametrize(
    ("variable", "value"),
    [("VLLM_CONF_MODE", "verbose"), *(("VLLM_CONF_TOPK", v) for v in ("0", "-1", "abc", "1.5"))],
)
def test_a_bad_variable_is_refused_by_its_name(variable: str, value: str) -> None:
    with pytest.raises(SettingsError, match=rf"^{variable}: .*{value!r}"):
        resolve(**{variable: value})


def test_a_flag_hides_a_bad_variable() -> None:
    assert resolve("--confidence-top-k=5", VLLM_CONF_TOPK="abc").top_k == 5


def test_flags_stand_in_a_group_of_their_own() -> None:
    parser = ArgumentParser()
    add_cli_args(parser)
    _, group = parser.format_help().split("Confidence:")
    for flag in ("mode", "top-k", "window"):
        assert f"--confidence-{flag}" in group
    assert "--max-score-items" in group


# The command, up to the point where it would start an engine.

Served = list[tuple[Namespace, ConfidenceSettings]]


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Served:
    """What the launcher was asked to serve; nothing starts."""
    calls: Served = []
    monkeypatch.setattr("conf_server.launcher.run", lambda *call: calls.append(call))
    for variable in ("VLLM_CONF_MODE", "VLLM_CONF_TOPK", "VLLM_USE_RUST_FRONTEND"):
        monkeypatch.delenv(variable, raising=False)
    return calls


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--confidence-mode", "verbose"], "--confidence-mode"),
        (["--confidence-top-k", "0"], "--confidence-top-k"),
        (["--confidence_window", "abc"], "--confidence-window"),
        (["serve", "m", "--max-score-items=-1"], "--max-score-items"),
        (["--logprobs-mode", "processed_logprobs"], "--logprobs-mode processed_logprobs"),
        (["--logprobs-mode", "raw_logits"], "--logprobs-mode raw_logits"),
        (["--grpc"], "--grpc"),
        (["--api-server-count", "0"], "--api-server-count"),
        (["--enable-auto-tool-choice"], "--enable-auto-tool-choice"),  # one of vLLM's own checks
        (["--config", "absent.yaml"], "absent.yaml"),
        (["--config"], "config"),
    ],
)
def test_a_bad_value_is_one_line_and_exit_status_2(
    arguments: list[str], named: str, served: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("conf-server: error: ")
    assert named in line
    assert not served


@pytest.mark.parametrize(
    ("variable", "value"),
    [("VLLM_CONF_MODE", "verbose"), ("VLLM_CONF_TOPK", "0"), ("VLLM_USE_RUST_FRONTEND", "1")],
)
def test_a_bad_variable_is_one_line_and_exit_status_2(
    variable: str,
    value: str,
    served: Served,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(variable, value)
    assert cli.main(["m"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"conf-server: error: {variable}: ")
    assert not served


def test_the_command_exits_with_mains_status() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "conf_server", "report", "no-such-file.jsonl"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("conf-server report: error: ")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("given", "top_k", "engine"), [(5, 20, 20), (20, 20, 20), (50, 20, 50), (-1, 20, -1)]
)
def test_the_engine_gives_top_k_candidates(given: int, top_k: int, engine: int) -> None:
    args = flags.parse_args(["m", f"--max-logprobs={given}", f"--confidence-top-k={top_k}"])
    flags.check_flags(args, ConfidenceSettings.from_args(args, {}), {})
    assert args.max_logprobs == engine


@pytest.mark.parametrize(
    ("flags", "count"),
    [
        ([], 1),
        (["--data-parallel-size=4"], 4),
        (["--data-parallel-size=4", "--data-parallel-rank=1"], 1),
        (["--data-parallel-size=4", "--data-parallel-external-lb"], 1),
        (["--data-parallel-size=4", "--data-parallel-start-rank=2"], 1),
        (
            ["--data-parallel-size=4", "--data-parallel-size-local=2", "--data-parallel-hybrid-lb"],
            2,
        ),
        (["--data-parallel-size=4", "--api-server-count=3"], 3),
        # Elastic expert parallelism works with one at most, whoever asks for more.
        (["--enable-elastic-ep", "--data-parallel-size=2"], 1),
        (["--enable-elastic-ep", "--data-parallel-size=2", "--api-server-count=2"], 1),
        (
            ["--enable-elastic-ep", "--data-parallel-size-local=2", "--data-parallel-hybrid-lb"],
            1,
        ),
        (["--headless", "--enable-elastic-ep", "--data-parallel-size=2"], 0),
    ],
)
def test_api_processes_are_as_many_as_vllms(flags: list[str], count: int, served: Served) -> None:
    assert cli.main(["m", *flags]) == 0
    ((args, _),) = served
    assert args.api_server_count == count


@pytest.mark.parametrize("headless", [[], ["--headless"]])
@pytest.mark.parametrize("external", ["--data-parallel-rank=1", "--data-parallel-external-lb"])
@pytest.mark.parametrize("hybrid", ["--data-parallel-start-rank=0", "--data-parallel-hybrid-lb"])
def test_two_ways_of_balancing_are_refused_by_their_flags(
    headless: list[str],
    external: str,
    hybrid: str,
    served: Served,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(["m", "--data-parallel-size=2", external, hybrid, *headless]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    given = [flag.partition("=")[0] for flag in (external, hybrid)]
    assert line.startswith(f"conf-server: error: {' and '.join(given)}: ")
    assert not served


def test_the_default_of_max_logprobs_follows_top_k(served: Served) -> None:
    assert cli.main(["m", "--confidence-top-k", "64"]) == 0
    ((args, settings),) = served
    assert args.max_logprobs == settings.top_k == 64


@pytest.mark.parametrize(
    "flags",
    [
        ["--speculative-config", '{"method": "ngram", "num_speculative_tokens": 3}'],
        ["--spec-method=ngram"],
        ["--spec-model=draft"],
        ["--spec-tokens=3"],
    ],
)
def test_token_statistics_and_speculative_decoding_exclude_each_other(
    flags: list[str], served: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["m", *flags]) == 0
    ((args, _),) = served
    assert not args.worker_extension_cls
    assert cli.main(["m", *flags, "--token-statistics=engine"]) == 2
    assert "--token-statistics engine: speculative" in capsys.readouterr().err


_PROBABILITIES = {"name": "luh.feature_extractors.token_probabilities", "top_n": 4}
_STATES = {"name": "luh.feature_extractors.basic_hidden_states"}


def linear_head(folder: Path, extractor: dict[str, Any], width: int) -> str:
    config = {"head_type": "linear", "feature_extractor": [extractor]}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    weights = {"classifier.weight": torch.zeros(1, width), "classifier.bias": torch.zeros(1)}
    torch.save(weights, folder / "weights.pth")
    return str(folder)


def test_a_head_of_the_model_is_served(served: Served, model_path: Path, tmp_path: Path) -> None:
    model = ["--model", str(model_path), "--max-model-len=1024"]
    assert cli.main([*model, "--uhead", linear_head(tmp_path, _PROBABILITIES, 4)]) == 0
    with_states = [*model, "--enable-hidden-states"]
    assert cli.main([*with_states, "--uhead", linear_head(tmp_path, _STATES, 576)]) == 0
    assert [settings.uhead for _, settings in served] == [str(tmp_path)] * 2


@pytest.mark.parametrize(
    ("extractor", "width", "reason"),
    [
        (_PROBABILITIES, 5, "its features are 4 numbers"),
        (_STATES | {"layer_nums": [31]}, 576, "layer_nums 31 is beyond"),
        (_STATES, 576, "needs --enable-hidden-states"),
    ],
)
def test_a_head_is_held_against_the_model_before_that_is_loaded(
    extractor: dict[str, Any],
    width: int,
    reason: str,
    served: Served,
    model_path: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = linear_head(tmp_path, extractor, width)
    assert cli.main(["--model", str(model_path), "--max-model-len=1024", "--uhead", folder]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(f"conf-server: error: --uhead {folder}: ")
    assert reason in line
    assert not served


@pytest.fixture
def config(tmp_path: Path) -> str:
    path = tmp_path / "conf-server.yaml"
    path.write_text("model: from-file\nconfidence-mode: stats\nconfidence_top_k: 5\nport: 8123\n")
    return str(path)


def test_a_config_file_takes_our_flags(
    config: str, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_CONF_MODE", "empty")
    assert cli.main(["--config", config]) == 0
    ((args, settings),) = served
    assert (args.model, args.port) == ("from-file", 8123)
    assert (settings.mode, settings.top_k) == ("stats", 5)


@pytest.mark.parametrize("command", [[], ["serve"]])
@pytest.mark.parametrize("model", [["mine"], ["--model", "mine"]])
def test_the_command_line_beats_the_file(
    command: list[str], model: list[str], config: str, served: Served
) -> None:
    arguments = [*model, "--config", config, "--confidence-mode", "summary", "--port=9"]
    assert cli.main([*command, *arguments]) == 0
    ((args, settings),) = served
    assert (args.model, args.port) == ("mine", 9)
    assert (settings.mode, settings.top_k) == ("summary", 5)


def test_help_shows_our_group_whole_above_vllms() -> None:
    ours, vllms = flags.make_parser().format_help().split("Config Groups:")
    assert "Confidence:" in ours
    assert "--confidence-top-k K" in ours
    assert "ModelConfig" in vllms
