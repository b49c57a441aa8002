"""Lines from chunks, and what an earlier run has left, whatever the border."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conf_server.batch.options import UsageError
from conf_server.batch.output import open_output, scan
from conf_server.batch.streams import LineSplitter


@given(st.lists(st.sampled_from([b"a", b"bc", b"\n", b"\n\n", b"d\ne"]), max_size=20))
def test_lines_do_not_depend_on_the_chunks(chunks: list[bytes]) -> None:
    splitter = LineSplitter()
    lines = [line for chunk in chunks for line in splitter.feed(chunk)]
    assert [*lines, splitter.rest] == b"".join(chunks).split(b"\n")


def answer(line: int) -> dict[str, Any]:
    return {"line": line, "request": f"{line + 1000:016x}", "server": "s", "result": {}}


def failure(line: int) -> dict[str, Any]:
    return {"line": line, "error": {"message": "no"}}


WRITTEN = st.lists(
    st.builds(lambda line, ok: (answer if ok else failure)(line), st.integers(1, 9), st.booleans())
)


@given(
    runs=st.lists(WRITTEN, min_size=1, max_size=4),
    cut=st.integers(0, 60),
    compressed=st.booleans(),
)
def test_what_is_kept_of_earlier_runs(
    runs: list[list[dict[str, Any]]], cut: int, compressed: bool
) -> None:
    texts = ["".join(json.dumps(line) + "\n" for line in run).encode() for run in runs]
    with TemporaryDirectory() as folder:
        path = Path(folder) / ("out.gz" if compressed else "out")
        whole = b"".join(gzip.compress(text, mtime=0) if compressed else text for text in texts)
        path.write_bytes(whole[: max(0, len(whole) - cut)])
        with open_output(str(path), overwrite=False) as output:
            kept = [line for line in range(1, 10) if output.found.request(line)]
            output.begin(overwrite=False, kept={})
            output.write(answer(10))
        text = gzip.decompress(path.read_bytes()) if compressed else path.read_bytes()
        assert [path.name] == [entry.name for entry in Path(folder).iterdir()]
    found = [json.loads(line) for line in text.splitlines()]
    assert sorted(line["line"] for line in found) == [*kept, 10]
    assert all(line == answer(line["line"]) for line in found)
    written = {line["line"] for run in runs for line in run if "result" in line}
    assert set(kept) <= written
    if cut == 0:
        assert set(kept) == written


@pytest.mark.parametrize(
    "content",
    [b"hello\n", b"[]\n", b'{"line": 0, "request": "1", "result": {}}\n', b'{"line": 1}\n'],
)
def test_somebody_elses_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "out"
    path.write_bytes(content)
    with pytest.raises(UsageError, match="line 1 is no answer"):
        scan(str(path))


def test_a_damaged_member_is_not_taken_for_a_torn_one(tmp_path: Path) -> None:
    path = tmp_path / "out.gz"
    whole = bytearray(gzip.compress(json.dumps(answer(1)).encode() + b"\n"))
    whole[-6] ^= 1  # its checksum
    path.write_bytes(whole)
    with pytest.raises(UsageError, match="damaged"):
        scan(str(path))
