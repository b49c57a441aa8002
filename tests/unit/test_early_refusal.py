"""Server command lines that are refused before vLLM is imported, and those that must not be."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from conf_server.early_refusal import refuse_early
from conf_server.settings import SettingsError

FREE = ("--port", "0")


@pytest.fixture
def model(tmp_path: Path) -> str:
    (tmp_path / "config.json").write_text("{}")
    return str(tmp_path)


@pytest.mark.parametrize(
    "line",
    [
        "--max-model-len 5",
        "--max_model_len=5",
        "--max-model-l 5",  # an abbreviation
        "-tp 2 -pp=2 -O3 -O 2 -cc.mode=3",
        "--compilation-config.pass_config.fuse_norm_quant true --compilation-config.mode=3",
        "--no-enable-prefix-caching --no-enforce-eager",
        "--speculative-config.method --ngram",  # vLLM takes the next word for the value
        "--seed -1 --gpu-memory-utilization .5",
        "--confidence-mod stats --confidence_top_k=5",
        "--served-model-name a b -- --frobnicate",
        "--api-key -",
        "--help=frobnicate --frobnicate",
        "--fitted /x --config file.yaml",  # which may have --enable-hidden-states
    ],
)
def test_what_vllm_takes_is_not_refused(model: str, line: str) -> None:
    refuse_early([model, *FREE, *line.split()], {})
    refuse_early(["--model", model, *FREE, *line.split()], {})


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--max-model-length 5", "--max-model-length: no such flag; did you mean --max-model-len?"),
        ("--max_model_length=5", "--max-model-length: no such flag; did you mean --max-model-len?"),
        ("--confidence-mod x", "--confidence-mode: must be one of per_token, summary, stats"),
        ("--confidence-mode", "--confidence-mode: expected one argument"),
        ("--scorer vllm", "--scorer: invalid choice: 'vllm'"),
        ("--fitted /x", "--fitted: it is of no use without --enable-hidden-states"),
        ("--compilation-conf1g.mode 3", "did you mean --compilation-config?"),
        ("--backend tranformers", "--backend: must be one of vllm, transformers"),
        ("--backend transformers --max-model-length 5", "did you mean --max-model-len?"),
        ("--port 99999999", "--port: cannot listen on 0.0.0.0:99999999"),
        ("--uds /no/such/folder/socket", "--uds: no such folder: /no/such/folder"),
        ("--uds /etc/hostname", "--uds: /etc/hostname is there already"),
    ],
)
def test_what_is_wrong_is_refused(model: str, line: str, message: str) -> None:
    with pytest.raises(SettingsError) as error:
        refuse_early([model, *line.split()], {})
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_environment_variables_are_checked_too(model: str) -> None:
    with pytest.raises(SettingsError, match="VLLM_CONF_MODE: must be one of"):
        refuse_early([model, *FREE], {"VLLM_CONF_MODE": "all"})


@pytest.mark.parametrize("backend", ["vllm", "transformers"])
def test_a_folder_that_holds_no_model(tmp_path: Path, backend: str) -> None:
    words = [f"--model={tmp_path}", *FREE, "--backend", backend]
    with pytest.raises(SettingsError, match=r"holds no model: no config\.json in it"):
        refuse_early(words, {})
    (tmp_path / "config.json").write_text("{broken")
    with pytest.raises(SettingsError, match=r"config.json is not JSON: .* line 1 column 2"):
        refuse_early(words, {})
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(SettingsError, match=r"config\.json must hold a JSON object"):
        refuse_early(words, {})
    for missing in (str(tmp_path / "not"), "./not", "a/b/c"):
        with pytest.raises(SettingsError, match=f"--model: no such folder: {missing}"):
            refuse_early([missing, *FREE, "--backend", backend], {})


@pytest.mark.parametrize("name", ["gpt2", "org/name", "s3://bucket/a/b", "org/name/file.gguf"])
def test_names_are_left_to_the_hub(name: str) -> None:
    refuse_early([name, *FREE], {})


@pytest.mark.parametrize("name", ["params.json", "weights.gguf"])
def test_other_forms_of_models_are_left_to_vllm(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    refuse_early([str(tmp_path), *FREE], {})


def test_a_config_elsewhere_is_left_to_vllm(tmp_path: Path) -> None:
    refuse_early([str(tmp_path), *FREE, "--hf-config-path=org/name"], {})


def test_a_port_that_another_has(model: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        words = [model, "--host=127.0.0.1", "--port", port]
        with pytest.raises(SettingsError, match=f"cannot listen on 127.0.0.1:{port}: Address al"):
            refuse_early(words, {})
        refuse_early(words, {}, listens=False)
        refuse_early([*words, "--headless"], {})
