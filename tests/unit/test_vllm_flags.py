"""The flags read off the source of the installed vLLM are those of its parser."""

from __future__ import annotations

from pathlib import Path

import pytest

from conf_server import flags, vllm_flags
from conf_server.vllm_flags import dashed, flags_of, installed_flags, may_be_flag


@pytest.fixture(scope="module")
def real() -> set[str]:
    """Every flag that the parser of the server knows, and that is not ours."""
    parser = flags.make_parser()
    ours = ("Confidence", "Scorer")
    return {
        flag
        for group in parser._action_groups
        if group.title not in ours
        for action in group._group_actions
        for flag in action.option_strings
    }


def test_no_flag_of_vllm_and_no_abbreviation_of_one_is_taken_for_a_wrong_one(
    real: set[str],
) -> None:
    read = installed_flags()
    assert read is not None
    assert len(real) > 300
    known = read | {"-h"}
    assert [flag for flag in sorted(real) if not may_be_flag(flag, known)] == []
    beginnings = {flag[:end] for flag in real for end in range(3, len(flag) + 1)}
    assert [word for word in sorted(beginnings) if not may_be_flag(word, known)] == []


def test_nothing_is_read_that_is_no_flag(real: set[str]) -> None:
    read = installed_flags()
    assert read is not None
    assert read - real == set()


@pytest.mark.parametrize("word", ["--max-model-length", "--modle", "--frobnicate", "-x", "-mode"])
def test_a_wrong_flag_is_none(word: str) -> None:
    read = installed_flags()
    assert read is not None
    assert not may_be_flag(word, read)


@pytest.mark.parametrize(
    ("word", "written"),
    [
        ("--max_model_len=a_b", "--max-model-len=a_b"),
        ("--compilation_config.pass_config=x", "--compilation-config.pass_config=x"),
        ("a_b", "a_b"),
        ("-a_b", "-a_b"),
    ],
)
def test_underscores_are_dashes_in_flags_alone(word: str, written: str) -> None:
    assert dashed(word) == written


@pytest.mark.parametrize("version", ["0.34.0", "0.3.1", "0.33"])
def test_an_unknown_release_is_left_to_its_own_parser(tmp_path: Path, version: str) -> None:
    for name in ("engine/arg_utils.py", "entrypoints/common/cli_args.py"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text('add("--flag")\n')
    (tmp_path / "_version.py").write_text(f"__version__ = version = '{version}'\n")
    assert flags_of(tmp_path) is None
    (tmp_path / "_version.py").write_text("__version__ = version = '0.33.1'\n")
    assert flags_of(tmp_path) == {"--flag"}
    (tmp_path / "engine/arg_utils.py").unlink()
    assert flags_of(tmp_path) is None


def test_where_vllm_is_not_installed_nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_flags, "find_spec", lambda _: None)
    assert installed_flags.__wrapped__() is None
