"""Flags that fill in an object of every request."""

from __future__ import annotations

from typing import Any

import pytest

from conf_server.batch import command
from conf_server.batch.endpoint import THINK
from conf_server.batch.options import parse_options

VALUES: dict[str, tuple[str, Any]] = {
    "--budget 64": ("budget", 64),
    "--traces-at-once 8": ("concurrency", 8),
    "--calibrate finishers": ("calibrate", "finishers"),
    "--warmup 4": ("warmup", 4),
    "--keep-top 0.9": ("keep_top", 0.9),
    "--calibrate fixed --below -1.5": ("below", -1.5),
    "--window 128": ("window", 128),
    "--candidates 5": ("top_k", 5),
    "--consensus beta": ("consensus", {"rule": "beta"}),
    "--consensus-threshold 0.9 --min-finished 5": (
        "consensus",
        {"threshold": 0.9, "min_finished": 5},
    ),
    "--vote majority,tail_weighted": ("vote", ["majority", "tail_weighted"]),
    "--min-voters 1": ("min_voters", 1),
    "--extract regex --pattern (.+)$ --equal number": (
        "answer",
        {"extract": "regex", "pattern": "(.+)$", "equal": "number"},
    ),
    "--extract choice --choices A,B": ("answer", {"extract": "choice", "choices": ["A", "B"]}),
    "--extract json --key sum": ("answer", {"extract": "json", "key": "sum"}),
    "--max-total-tokens 5000": ("max_total_tokens", 5000),
    "--traces full": ("traces", "full"),
}


@pytest.mark.parametrize("flags", VALUES)
def test_a_flag_of_think_is_a_field_of_think(flags: str) -> None:
    name, value = VALUES[flags]
    options = parse_options(THINK, ["in", "-o", "out", *flags.split()])
    assert options.defaults[name] == value


def test_what_no_flag_says_is_the_server_s() -> None:
    options = parse_options(THINK, ["in", "-o", "out"])
    assert options.defaults == {}
    assert options.concurrency == 4


BAD = {
    "--vote majorty": "there is no vote 'majorty'; did you mean majority?",
    "--consensus most": "invalid choice: 'most'",
    "--keep-top 0": "above 0 and at most 1",
    "--below nan": "must be a number",
    "--below 3": "--below: goes with --calibrate fixed",
    "--extract boxed --pattern x": "--pattern: goes with --extract regex",
}


@pytest.mark.parametrize("flags", BAD)
def test_a_flag_that_means_nothing_is_one_line(
    flags: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        command.think(["in", "-o", "out", *flags.split()])
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert BAD[flags] in line
