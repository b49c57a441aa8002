"""Files of requests, and runs over them in the background."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.processes import DEADLINE_S
from tests.unit.batch.fake_server import FakeServer

GRACE_S = 10 * DEADLINE_S
"""Of a run in the background: it ends for a reason, not because its time is up."""


class Files:
    """An input and an output."""

    def __init__(self, folder: Path, suffix: str = "") -> None:
        self.input = folder / f"in.jsonl{suffix}"
        self.output = folder / f"out.jsonl{suffix}"

    def write(self, *lines: Any) -> None:
        texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
        with self._open(self.input, "wt") as file:
            file.writelines(text + "\n" for text in texts)

    def lines(self) -> list[dict[str, Any]]:
        with self._open(self.output, "rt") as file:
            return [json.loads(line) for line in file]

    def by_line(self) -> dict[int, dict[str, Any]]:
        """Every line once, whatever its place."""
        lines = self.lines()
        found = {line["line"]: line for line in lines}
        assert len(found) == len(lines)
        return found

    def answers(self) -> dict[int, Any]:
        return {number: line["result"]["data"][0] for number, line in self.by_line().items()}

    def _open(self, path: Path, mode: str) -> Any:
        return gzip.open(path, mode) if path.suffix == ".gz" else path.open(mode)

    def words(self, server: FakeServer, *flags: str) -> list[str]:
        return [str(self.input), "-o", str(self.output), "--url", server.url, *flags]


def prompts(count: int, **fields: Any) -> list[dict[str, Any]]:
    return [{"prompt": f"p{n}", "completion": "c", **fields} for n in range(1, count + 1)]


def expected(count: int) -> dict[int, str]:
    return {n: f"p{n}" for n in range(1, count + 1)}


def background(name: str, words: list[str], **options: Any) -> subprocess.Popen[bytes]:
    code = f"""
import sys
from conf_server.batch import command, run
run.GRACE_S = {GRACE_S}
sys.exit(command.{name}(sys.argv[1:]))
"""
    return subprocess.Popen([sys.executable, "-c", code, *words], **options)
