"""The file of answers: what an earlier run has left there, whatever the border."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conf_server.batch import command
from conf_server.batch.options import UsageError
from conf_server.batch.output import open_output, scan
from tests.processes import DEADLINE_S, until
from tests.unit.batch.fake_server import FakeServer
from tests.unit.batch.runs import Files, background, expected, prompts


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_an_output_cut_anywhere_is_repaired(
    server: FakeServer, tmp_path: Path, suffix: str
) -> None:
    files = Files(tmp_path, suffix)
    files.write(*prompts(3))
    assert command.score(files.words(server, "--concurrency", "1")) == 0
    whole = files.output.read_bytes()
    for size in range(0, len(whole), 7 if suffix else 23):
        files.output.write_bytes(whole[:size])
        assert command.score(files.words(server)) == 0
        assert files.answers() == expected(3)


def test_a_gz_output_grows_by_members(server: FakeServer, tmp_path: Path) -> None:
    files = Files(tmp_path, ".gz")
    for count in (3, 5, 9):
        files.write(*prompts(count))
        assert command.score(files.words(server)) == 0
        assert files.answers() == expected(count)
    assert set(server.prompts().values()) == {1}


def test_overwrite(server: FakeServer, files: Files) -> None:
    files.write(*prompts(3))
    files.output.write_bytes(b"something else\n")
    assert command.score(files.words(server)) == 2
    assert files.output.read_bytes() == b"something else\n"
    assert command.score(files.words(server, "--overwrite")) == 0
    assert files.answers() == expected(3)


OTHER_FILES = {
    "text": b"hello\n",
    "text without an end": b"hello",
    "a JSON file": b'{"a": 1}',
    "another tool's output": b'{"id": "a", "response": {}, "error": null}\n',
    "another tool's lines": b'{"line": 1, "error": null}\n',
    "another tool's last line": b'{"line": 1, "text": "hello"}',
    "more than an error": b'{"line": 1, "error": {}, "file": "a.c"}\n',
    "error and result": b'{"line": 1, "error": {}, "result": {}}\n',
    "a long digest": b'{"line": 1, "request": "%s", "server": "s", "result": {}}\n' % (b"f" * 99),
    "a huge line number": b'{"line": 1000000000000, "error": {}}\n',
    "depth": b"[" * 100_000 + b"\n",
}


@pytest.mark.parametrize("content", OTHER_FILES.values(), ids=OTHER_FILES)
def test_somebody_elses_file_stays_as_it_is(
    server: FakeServer, plain: Files, capsys: pytest.CaptureFixture[str], content: bytes
) -> None:
    plain.write(*prompts(3))
    plain.output.write_bytes(content)
    assert command.score(plain.words(server)) == 2
    assert "is no answer of an earlier run; --overwrite starts anew" in capsys.readouterr().err
    assert plain.output.read_bytes() == content
    assert not server.bodies


def test_two_runs_do_not_write_to_one_file(
    server: FakeServer, plain: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    plain.write(*prompts(3, wait=True))
    server.gate.clear()
    process = background("score", plain.words(server))
    until(lambda: len(server.bodies) == 3)
    assert command.score(plain.words(server)) == 2
    assert "another run is writing" in capsys.readouterr().err
    server.gate.set()
    assert process.wait(DEADLINE_S) == 0
    assert plain.answers() == expected(3)


def test_the_mode_of_a_rewritten_file_stays(server: FakeServer, plain: Files) -> None:
    plain.write(*prompts(2))
    assert command.score(plain.words(server)) == 0
    plain.output.chmod(0o640)
    plain.output.write_bytes(plain.output.read_bytes()[:-3])
    assert command.score(plain.words(server)) == 0
    assert plain.output.stat().st_mode & 0o777 == 0o640
    assert [path.name for path in plain.output.parent.iterdir() if "out" in path.name] == [
        "out.jsonl"
    ]


# What is read of it


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
            output.begin(overwrite=False)
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
