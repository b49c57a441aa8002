"""How long a batch command waits for its server, and what its server is called."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conf_server.batch.client import LONGEST_ASKED_S, LONGEST_DELAY_S, retry_delay
from conf_server.batch.options import SCORE, parse_options, served_model

NOW = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("VLLM_CONF_MODE", "VLLM_CONF_TOPK"):
        monkeypatch.delenv(name, raising=False)


def test_by_default_a_restart_is_outlasted() -> None:
    retries = parse_options(SCORE, ["in", "-o", "out"]).retries
    assert sum(retry_delay(attempt, None, NOW) for attempt in range(retries)) >= 120


@given(st.integers(0, 10**6))
def test_delays_grow_to_a_bound(attempt: int) -> None:
    low = min(0.5 * 2.0 ** min(attempt, 9), LONGEST_DELAY_S)
    assert low <= retry_delay(attempt, None, NOW) <= 1.5 * low


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("120", 120),
        (format_datetime(NOW.replace(minute=2), usegmt=True), 120),
        ("Thu, 01 Jan 2026 12:02:00 -0000", 120),
        ("3600", LONGEST_ASKED_S),
        ("9" * 5000, LONGEST_ASKED_S),
        (format_datetime(NOW.replace(year=2030), usegmt=True), LONGEST_ASKED_S),
    ],
)
def test_the_server_is_heard(header: str, expected: float) -> None:
    assert retry_delay(0, header, NOW) == expected


NO_DELAYS = ["0", "-5", "1.5", "soon", format_datetime(NOW), f"1 Jan {'9' * 20} 0:0:0 GMT"]


@given(st.text() | st.sampled_from(NO_DELAYS))
def test_no_header_makes_us_faster(header: str) -> None:
    assert 0.5 <= retry_delay(0, header, NOW) <= LONGEST_ASKED_S


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
