"""Which adapters keep a server from scoring: those on the output head, or that might be."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import constants
from vllm.lora.request import LoRARequest

from conf_server.engine import lora

HEAD = {"target_modules": ["q_proj", "lm_head"]}
BODY = {"target_modules": ["q_proj", "v_proj"]}


@pytest.fixture(autouse=True)
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """On CPU adapters do not decide: see the test of it."""
    monkeypatch.setattr(lora, "current_platform", SimpleNamespace(is_cpu=lambda: False))


def obstacle(path: Any, target_modules: list[str] | None = None) -> str | None:
    config: Any = SimpleNamespace(lora_config=SimpleNamespace(target_modules=target_modules))
    return lora.scoring_obstacle(config, [LoRARequest("mine", 1, str(path))])


def write(folder: Path, fields: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(fields))
    return folder


@pytest.mark.parametrize(
    ("fields", "on_head"),
    [
        (BODY, False),
        (HEAD, True),
        ({**BODY, "modules_to_save": None}, False),
        ({**BODY, "modules_to_save": ["lm_head"]}, True),
        ({"target_modules": ["language_model.lm_head"]}, True),
        # PEFT's patterns, of a module's whole path.
        ({"target_modules": "all-linear"}, False),
        ({"target_modules": r".*\.(q|v)_proj"}, False),
        ({"target_modules": r"(.*\.q_proj|lm_head)"}, True),
        ({"target_modules": ".*"}, True),
        ({"target_modules": r"language_model\..*"}, True),
    ],
)
def test_an_adapter_of_the_head_is_refused(
    tmp_path: Path, fields: dict[str, Any], on_head: bool
) -> None:
    found = obstacle(write(tmp_path, fields))
    assert (found is not None) is on_head
    assert found is None or found.startswith("adapter mine adapts lm_head, ")


def test_a_path_is_expanded_as_vllm_expands_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "head", HEAD)
    write(tmp_path / "body", BODY)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert "adapts lm_head" in str(obstacle("~/head"))
    assert obstacle("~/body") is None
    monkeypatch.chdir(tmp_path)
    assert "adapts lm_head" in str(obstacle("head"))
    assert obstacle("body") is None


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the workers have downloaded: org/head and org/body."""
    for name, fields in (("head", HEAD), ("body", BODY)):
        folder = tmp_path / f"models--org--{name}"
        write(folder / "snapshots" / "abc", fields)
        (folder / "refs").mkdir()
        (folder / "refs" / "main").write_text("abc")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.delenv("VLLM_USE_MODELSCOPE", raising=False)
    return tmp_path


def test_a_hubs_adapter_is_read_where_the_workers_put_it(hub_cache: Path) -> None:
    assert "adapts lm_head" in str(obstacle("org/head"))
    assert obstacle("org/body") is None


@pytest.mark.usefixtures("hub_cache")
def test_another_hubs_adapter_of_the_same_name_is_not_taken_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("VLLM_USE_MODELSCOPE", "true")
    assert "may adapt lm_head" in str(obstacle("org/body"))


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("/no/such/folder", "cannot be read here"),
        ("~/no/such/folder", "cannot be read here"),
        ("org/elsewhere", "neither a folder here nor in the hub's cache"),
        ("no/such/folder", "cannot be read here"),
    ],
)
@pytest.mark.usefixtures("hub_cache")
def test_an_adapter_that_is_not_here_might_adapt_the_head(path: str, why: str) -> None:
    found = str(obstacle(path))
    assert found.startswith("adapter mine may adapt lm_head, ")
    assert why in found
    assert found.endswith("exclude it with --lora-target-modules")


@pytest.mark.parametrize("content", ["", "[]", "{", '{"target_modules": "("}'])
def test_a_configuration_that_says_nothing_might_adapt_the_head(
    tmp_path: Path, content: str
) -> None:
    (tmp_path / "adapter_config.json").write_text(content)
    assert "may adapt lm_head" in str(obstacle(tmp_path))


@pytest.mark.parametrize(
    ("target_modules", "refused"),
    [
        (["q_proj"], False),
        (["q_proj", "lm_head"], True),
        (["language_model.lm_head"], True),
        (None, True),
    ],
)
def test_the_engines_modules_decide_before_the_adapters(
    tmp_path: Path, target_modules: list[str] | None, refused: bool
) -> None:
    assert bool(obstacle(write(tmp_path, HEAD), target_modules)) is refused
    assert bool(obstacle("/no/such/folder", target_modules)) is refused


def test_on_cpu_only_the_engines_modules_decide(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lora, "current_platform", SimpleNamespace(is_cpu=lambda: True))
    assert "--enable-lora on CPU" in str(obstacle(write(tmp_path, BODY)))
    assert obstacle(tmp_path, ["q_proj"]) is None


def test_without_lora_nothing_is_in_the_way() -> None:
    config: Any = SimpleNamespace(lora_config=None)
    assert lora.scoring_obstacle(config, []) is None
