"""What of the scorer depends on the platform and on the engine beside it."""

from __future__ import annotations

import logging
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

from conf_server import scorer_start
from conf_server.engine.weights import weights_bytes
from conf_server.flags import make_parser
from conf_server.scorer.scorer_options import ScorerSettings
from conf_server.scorer_start import DefaultShare, check_scorer, leave_room, on_engine_gpu
from conf_server.settings import ConfidenceSettings, SettingsError

GIB = 2**30


class Platform:
    """A platform with GPUs, or without."""

    def __init__(self, has_gpu: bool) -> None:
        self._has_gpu = has_gpu

    def is_sleep_mode_available(self) -> bool:
        return self._has_gpu

    is_cuda_alike = is_sleep_mode_available


@pytest.fixture(params=[True, False])
def has_gpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    monkeypatch.setattr(scorer_start, "current_platform", Platform(request.param))
    return bool(request.param)


def flags(**given: Any) -> Namespace:
    defaults = {
        "headless": False,
        "tensor_parallel_size": 1,
        "pipeline_parallel_size": 1,
        "data_parallel_size": 1,
        "data_parallel_size_local": None,
        "api_server_count": None,
        "model": "model",
        "revision": None,
        "tokenizer": None,
        "trust_remote_code": False,
    }
    return Namespace(**defaults | given)


def test_engine_and_scorer_take_turns_where_the_engine_can_sleep(has_gpu: bool) -> None:
    args = flags()
    if has_gpu:
        check_scorer(args, ScorerSettings(mode="swap"), ConfidenceSettings())
        assert args.enable_sleep_mode
        return
    with pytest.raises(SettingsError, match=r"^--scorer-mode swap: .* this platform does not"):
        check_scorer(args, ScorerSettings(mode="swap"), ConfidenceSettings())


@pytest.mark.parametrize(
    ("given", "scorer", "reason"),
    [
        ({}, {"device": "cpu"}, "shares no GPU with the engine"),
        ({}, {"device": "cuda:1"}, "shares no GPU with the engine"),
        ({}, {"quantization": "int8"}, "--scorer-quantization"),
        ({"data_parallel_size": 2}, {}, "one engine"),
        ({"api_server_count": 2}, {}, "one API process"),
    ],
)
def test_turns_that_cannot_be_taken_are_refused_in_words(
    given: dict[str, int],
    scorer: dict[str, str],
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(scorer_start, "current_platform", Platform(has_gpu=True))
    settings = ScorerSettings(mode="swap", **scorer)  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match=f"^--scorer-mode swap: .*{reason}"):
        check_scorer(flags(**given), settings, ConfidenceSettings())


def test_adapters_are_not_loaded_into_an_engine_that_sleeps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(scorer_start, "current_platform", Platform(has_gpu=True))
    monkeypatch.setenv("VLLM_ALLOW_RUNTIME_LORA_UPDATING", "1")
    with pytest.raises(SettingsError, match="VLLM_ALLOW_RUNTIME_LORA_UPDATING"):
        check_scorer(flags(), ScorerSettings(mode="swap"), ConfidenceSettings())


def test_a_host_without_an_api_server_has_no_scorer() -> None:
    with pytest.raises(SettingsError, match="--headless"):
        check_scorer(flags(headless=True), ScorerSettings(), ConfidenceSettings())
    check_scorer(flags(headless=True), None, ConfidenceSettings())


@pytest.mark.parametrize(
    ("device", "engine", "shared"),
    [
        ("auto", {}, True),
        ("cuda", {}, True),
        ("cpu", {}, False),
        ("cuda:1", {}, False),
        ("cuda:1", {"tensor_parallel_size": 2}, True),
        ("cuda:3", {"tensor_parallel_size": 2, "data_parallel_size": 2}, True),
        ("cuda:3", {"data_parallel_size": 4, "data_parallel_size_local": 2}, False),
    ],
)
def test_a_gpu_may_be_the_engine_s_too(
    device: str, engine: dict[str, int], shared: bool, has_gpu: bool
) -> None:
    assert on_engine_gpu(flags(**engine), device) is (shared and has_gpu)


def test_the_engine_leaves_room_for_the_scorer(caplog: pytest.LogCaptureFixture) -> None:
    args = flags(gpu_memory_utilization=DefaultShare(0.9))
    with caplog.at_level(logging.INFO, "vllm"):
        leave_room(args, 10 * GIB, 100 * GIB)
    assert args.gpu_memory_utilization == pytest.approx(0.9 - 0.13)
    assert "lowered from 0.900 to 0.770" in caplog.text


def test_a_share_that_was_given_is_told_from_the_default() -> None:
    parser = make_parser()
    default = parser.parse_args(["--model=x"]).gpu_memory_utilization
    same = parser.parse_args(["--model=x", f"--gpu-memory-utilization={default}"])
    assert isinstance(default, DefaultShare)
    assert type(same.gpu_memory_utilization) is float


@pytest.mark.parametrize(("share", "size"), [(0.9, 10 * GIB), (DefaultShare(0.9), None)])
def test_what_was_given_or_cannot_be_known_is_left_with_a_warning(
    share: float, size: int | None, caplog: pytest.LogCaptureFixture
) -> None:
    args = flags(gpu_memory_utilization=share)
    leave_room(args, size, 100 * GIB)
    assert args.gpu_memory_utilization == 0.9
    (record,) = caplog.records
    assert record.levelno == logging.WARNING


def test_nothing_is_started_where_nothing_would_be_left_for_the_engine() -> None:
    args = flags(gpu_memory_utilization=DefaultShare(0.9))
    with pytest.raises(SettingsError, match=r"13\.0 GiB for it, the GPU's 14\.0 GiB"):
        leave_room(args, 10 * GIB, 14 * GIB)


def test_weights_are_measured_on_disk(tmp_path: Path) -> None:
    assert weights_bytes(str(tmp_path), None, None) is None
    (tmp_path / "a.safetensors").write_bytes(bytes(5))
    (tmp_path / "b.safetensors").write_bytes(bytes(6))
    (tmp_path / "the same.bin").write_bytes(bytes(11))
    assert weights_bytes(str(tmp_path), None, None) == 11
