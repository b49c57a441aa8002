"""patches/upstream: our code, surface.toml and the records fit each other."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import check
import pytest
from ours import OurCode, misfits
from reader import read_members
from record import Record
from sources import SourceTree
from surface import Surface, SurfaceError, in_range, release

from tests.tools.upstream_project import REPOSITORY

HOME = check.Home.of(REPOSITORY)
UPDATE = "run: python patches/upstream/check.py --update"


@pytest.fixture(scope="module")
def code() -> OurCode:
    return OurCode(HOME.packages, HOME.root)


def test_all_that_our_code_takes_from_vllm_is_listed(code: OurCode) -> None:
    """This reads the installed vLLM; `make upstream-check` does the same for every release."""
    surface = HOME.surface()
    problems = code.unlisted(surface, read_members(SourceTree.installed(), surface.entries()))
    assert not problems, "\n".join(["", *problems, f"then {UPDATE}"])


def test_nothing_is_listed_that_our_code_does_not_use(code: OurCode) -> None:
    problems = code.unused(HOME.surface())
    assert not problems, "\n".join(["", *problems, "remove it from surface.toml", f"then {UPDATE}"])


@pytest.mark.parametrize("record", HOME.records(), ids=lambda record: record.version)
def test_a_record_has_every_listed_name(record: Record) -> None:
    listed = {need.key for need in HOME.surface().needs(record.version)}
    differing = sorted(listed ^ record.names.keys())
    assert not differing, f"\n{differing}\n{UPDATE}"


@pytest.mark.parametrize("record", HOME.records(), ids=lambda record: record.version)
def test_our_overrides_fit_every_recorded_version(code: OurCode, record: Record) -> None:
    assert code.incompatible(record.names) == []


def test_every_supported_version_has_a_record() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (requirement,) = (
        line for line in project["optional-dependencies"]["cuda"] if line.startswith("vllm")
    )
    first, beyond = (int(minor) for minor in re.findall(r"0\.(\d+)", requirement))
    recorded = [release(record.version)[:2] for record in HOME.records()]
    assert recorded == [(0, minor) for minor in range(first, beyond)], requirement


@pytest.mark.parametrize(
    ("ours", "upstream", "problems"),
    [
        (["self", "a", "b=..."], ["self", "a", "b=..."], []),
        (["self", "a", "*args", "**kwargs"], ["self", "a", "b", "*", "c"], []),
        (["self", "a", "b", "c=..."], ["self", "a", "*", "b"], []),
        (["self", "a"], ["self", "a", "b=..."], ["does not take b"]),
        (["self", "a", "*args"], ["self", "a", "b=..."], ["does not take b"]),
        (["self"], ["self", "*", "c=..."], ["does not take c"]),
        (["self", "b"], ["self", "a"], ["takes b where vLLM passes a", "needs b, which"]),
    ],
)
def test_an_override_fits_or_not(ours: list[str], upstream: list[str], problems: list[str]) -> None:
    found = misfits(ours, upstream)
    assert len(found) == len(problems)
    for line, start in zip(found, problems, strict=True):
        assert line.startswith(start)


@pytest.mark.parametrize(
    ("version", "clauses", "expected"),
    [
        ("0.32.0", "", True),
        ("0.32.0", ">=0.32", True),
        ("0.31.9", ">=0.32,<0.33", False),
        ("0.33.0rc1", "<0.33", False),
        ("0.32", "==0.32.0", True),
    ],
)
def test_version_ranges(version: str, clauses: str, expected: bool) -> None:
    assert in_range(version, clauses) is expected


@pytest.mark.parametrize(
    "text",
    [
        "not toml",
        '["vllm"]\nX = "called"',
        '["vllm"]\nX = { use = "loved", why = "x" }',
        '["vllm"]\nX = { use = "called" }',
        '["vllm"]\nX = { use = "called", why = "x", vllm = "0.33" }',
    ],
)
def test_a_wrong_surface_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "surface.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SurfaceError):
        Surface.load(path)
