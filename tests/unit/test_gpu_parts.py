"""benchmarks.gpu: what goes in at `split` comes out of `join.py`, or it says what is amiss."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.gpu.join import MANIFEST, Joined, PartsError, join, read_manifest
from benchmarks.gpu.parts import PART_BYTES, split

LIMIT = 1000


@pytest.fixture
def files(tmp_path: Path) -> dict[str, bytes]:
    """Smaller than a part, larger, as large, and empty."""
    draw = random.Random(0)
    sizes = {"a.whl": 300, "b.whl": 2_650, "c.whl": 1_000, "d.whl": 0, "e.whl": 7}
    return {name: draw.randbytes(size) for name, size in sizes.items()}


@pytest.fixture
def parts(tmp_path: Path, files: dict[str, bytes]) -> Path:
    source = tmp_path / "source"
    source.mkdir()
    for name, content in files.items():
        (source / name).write_bytes(content)
    split(source, tmp_path / "parts", {"vllm": "0.0"}, LIMIT)
    return tmp_path / "parts"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_there_and_back(parts: Path, files: dict[str, bytes], tmp_path: Path) -> None:
    sizes = [path.stat().st_size for path in sorted(parts.glob("part-*"))]
    assert sizes == [1000, 1000, 1000, 957]
    joined = join(parts, tmp_path / "out")
    assert joined == Joined(written=[*files], waiting=[], missing=[], damaged=[])
    assert contents(tmp_path / "out") == files
    assert join(parts, tmp_path / "out").written == []


@settings(max_examples=30)
@given(st.lists(st.binary(max_size=300), max_size=8), st.integers(1, 200))
def test_any_files_in_parts_of_any_size(
    tmp_path_factory: pytest.TempPathFactory, blobs: list[bytes], limit: int
) -> None:
    folder = tmp_path_factory.mktemp("any")
    (folder / "source").mkdir()
    for number, blob in enumerate(blobs):
        (folder / "source" / str(number)).write_bytes(blob)
    split(folder / "source", folder / "parts", {}, limit)
    assert all(path.stat().st_size <= limit for path in (folder / "parts").glob("part-*"))
    join(folder / "parts", folder / "out")
    assert contents(folder / "out") == contents(folder / "source")


def test_goes_on_as_parts_arrive(parts: Path, files: dict[str, bytes], tmp_path: Path) -> None:
    last = parts / "part-003"
    last.rename(tmp_path / "later")
    joined = join(parts, tmp_path / "out")
    assert joined == Joined(["a.whl", "b.whl", "d.whl"], ["c.whl", "e.whl"], ["part-003"], [])
    (tmp_path / "later").rename(last)
    assert join(parts, tmp_path / "out").written == ["c.whl", "e.whl"]
    assert contents(tmp_path / "out") == files


def test_a_damaged_part_is_named_and_nothing_is_made_of_it(parts: Path, tmp_path: Path) -> None:
    damaged = bytearray((parts / "part-001").read_bytes())
    damaged[10] ^= 1
    (parts / "part-001").write_bytes(damaged)
    joined = join(parts, tmp_path / "out")
    assert joined.damaged == ["part-001"]
    assert joined.waiting == ["b.whl"]
    assert not (tmp_path / "out" / "b.whl").exists()


def test_a_damaged_file_is_made_again(parts: Path, files: dict[str, bytes], tmp_path: Path) -> None:
    join(parts, tmp_path / "out")
    (tmp_path / "out" / "b.whl").write_bytes(b"half")
    assert join(parts, tmp_path / "out").written == ["b.whl"]
    assert contents(tmp_path / "out") == files


def test_parts_that_are_not_needed_any_more_may_go(parts: Path, tmp_path: Path) -> None:
    join(parts, tmp_path / "out")
    for path in parts.glob("part-*"):
        path.unlink()
    assert join(parts, tmp_path / "out") == Joined([], [], [], [])


def test_no_manifest(tmp_path: Path) -> None:
    with pytest.raises(PartsError, match=MANIFEST):
        join(tmp_path, tmp_path / "out")


def test_the_manifest_keeps_what_it_was_told(parts: Path) -> None:
    assert read_manifest(parts)["vllm"] == "0.0"


def test_join_runs_by_itself_beside_the_parts(
    parts: Path, files: dict[str, bytes], tmp_path: Path
) -> None:
    command = (sys.executable, "-I", parts / "join.py", parts, tmp_path / "out")
    (parts / "part-002").rename(tmp_path / "later")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "missing: part-002" in done.stderr
    (tmp_path / "later").rename(parts / "part-002")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert contents(tmp_path / "out") == files


def test_a_part_can_be_carried() -> None:
    assert PART_BYTES <= 60 * 2**20
