"""A start that vLLM itself refuses, seen from the command that has started the server."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.processes import DEADLINE_S


def test_a_model_that_does_not_go_with_the_flags_is_one_line(
    model_path: Path, tmp_path: Path
) -> None:
    given, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    given.write_text('{"prompt": "a", "completion": "b"}\n')
    words = ["score", str(given), "-o", str(output), "--model", str(model_path)]
    done = subprocess.run(
        [sys.executable, "-m", "conf_server", *words, "--max-model-len", "99999999"],
        capture_output=True,
        text=True,
        timeout=5 * DEADLINE_S,
    )
    assert done.returncode == 2, done.stderr
    starting, error = done.stderr.splitlines()
    log = Path(starting.partition("its log is ")[2])
    assert "did not start: it ended with status 2: --model " in error
    assert "greater than the derived max_model_len" in error
    assert error.endswith(f"(its log is {log})")
    assert "Traceback" not in log.read_text()
    log.unlink()
