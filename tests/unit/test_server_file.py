"""conf-server.yaml: what it comes to, and what is said of mistakes in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from conf_server.server_file import is_server_file, read_server_file
from conf_server.server_file_command import main, with_server_file
from conf_server.settings import SettingsError

KNOWN = {
    *("--model", "--port", "--dtype", "--gpu-memory-utilization", "--served-model-name"),
    *("--enforce-eager", "--no-enforce-eager", "--hf-overrides", "--trust-remote-code"),
    *("--confidence-mode", "--confidence-top-k", "--confidence-window", "--fitted"),
    *("--enable-hidden-states", "--default-methods", "--scorer", "--scorer-quantization"),
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "conf-server.yaml"


def words(path: Path, text: str) -> list[str]:
    path.write_text(text)
    return read_server_file(path).words(KNOWN)


def test_a_generator_is_flags_of_its_server(path: Path) -> None:
    text = """
generator:
  model: m
  gpu_memory_utilization: 0.9
  served-model-name: [a, b]
  enforce_eager: false
  trust_remote_code: false
  hf_overrides: {rope: 1}
"""
    assert words(path, text) == [
        *("--model=m", "--gpu-memory-utilization=0.9", "--served-model-name", "a", "b"),
        *("--no-enforce-eager", '--hf-overrides={"rope": 1}'),
    ]


def test_all_sections(path: Path) -> None:
    text = """
generator: {type: hybrid, model: m}
scorer: {type: [entropy, maxprob, perplexity], quantization: int8}
confidence: {mode: stats, top_k: 20, window: 64}
fitted: ./fitted
"""
    methods = "mean_token_entropy,maximum_sequence_probability,perplexity"
    assert words(path, text) == [
        *("--model=m", "--scorer-quantization=int8", "--scorer=transformers"),
        *("--confidence-mode=stats", "--confidence-top-k=20", "--confidence-window=64"),
        *(f"--default-methods={methods}", "--fitted=./fitted", "--enable-hidden-states"),
    ]


def test_what_methods_read_is_enabled(path: Path) -> None:
    text = "generator: {model: m}\nscorer: {type: [rauq]}"
    assert words(path, text)[1:] == ["--default-methods=rauq", "--enable-hidden-states"]


def test_of_transformers_alone_the_scorer_is_the_model(path: Path) -> None:
    path.write_text("generator: {type: transformers, model: m}\nscorer: {dtype: float16}")
    file = read_server_file(path)
    assert file.backend == "transformers"
    assert file.words(KNOWN) == ["--model=m", "--dtype=float16"]


def test_keys_of_old_do_nothing_and_that_is_said(path: Path) -> None:
    path.write_text(
        "generator: {model: m}\nscorer:\n  type: entropy\n  sequential_generation: true"
    )
    (note,) = read_server_file(path).notes
    assert note.startswith(
        f"{path}, line 4: scorer.sequential_generation does nothing: all answers"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "generator: {model: m}\nconfidnce: {}",
            "line 2: confidnce: no such key; did you mean con",
        ),
        ("generator:\n  modle: m", "line 1: generator.model: must be given"),
        (
            "generator:\n  model: m\n  dtyp: x",
            "line 3: generator.dtyp: no such key; did you mean dtype?",
        ),
        ("generator: {model: m, type: sglang}", "line 1: generator.type: must be one of vllm,"),
        (
            "generator: {model: m}\nscorer: {type: [entropi]}",
            "line 2: scorer.type.entropi: no such method; did you mean entropy?",
        ),
        ("generator: {model: m}\nconfidence: {topk: 3}", "line 2: confidence.topk: no such key"),
        (
            "generator: {model: m}\nscorer: {device: cpu}",
            "line 2: scorer.device: it is of the scorer, which there is with `generator.type: hyb",
        ),
        ("generator: {model: m}\nfitted: [a]", "line 2: fitted: must be the name of a folder"),
        ("generator: {model: m}\ngenerator: {model: n}", "line 2: generator: given twice, first"),
        ("generator: {model: m}\non: 3", "line 1: True: no such key"),
        ("generator: {model: m}\nscorer: 3", "line 2: scorer: must hold keys of its own"),
    ],
)
def test_a_mistake_is_told_with_its_line(path: Path, text: str, message: str) -> None:
    with pytest.raises(SettingsError) as error:
        words(path, text)
    assert f"{path}, {message}" in str(error.value)


def test_a_file_of_vllms_form_is_left_to_vllm(path: Path) -> None:
    path.write_text("model: m\nport: 8000\n")
    assert not is_server_file(path)
    given = ["--config", str(path), "--port", "1"]
    assert with_server_file(given) == given


def test_flags_win_over_the_file(path: Path) -> None:
    path.write_text("generator: {type: transformers, model: m, port: 8001}")
    given = with_server_file(["--port", "1", f"--config={path}"])
    assert given == ["--backend", "transformers", "--model=m", "--port=8001", "--port", "1"]


def test_the_command_prints_a_command_line(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path.write_text("generator: {type: transformers, model: a b, port: 8001}")
    assert main([str(path)]) == 0
    line = "conf-server --backend transformers '--model=a b' --port=8001\n"
    assert capsys.readouterr().out == line
    path.write_text("generator: {type: transformers, model: m, prt: 8001}")
    assert main([str(path)]) == 2
    assert "line 1: generator.prt: no such key; did you mean port?" in capsys.readouterr().err
