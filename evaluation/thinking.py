"""Is it worth thinking many times? Accuracy against tokens, by what ends traces and who votes.

    python -m evaluation.thinking FOLDER --url http://localhost:8000
    python -m evaluation.thinking FOLDER --model PATH [flags of the server]

writes the questions of `sums_in_steps` into a folder, has `conf-server think` answer them in every
setting, and prints a table. Run again, it goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Final

from conf_server.batch.command import think
from conf_server.server_process import ServerProcess
from evaluation import sums_in_steps
from evaluation.thinking_replay import replays
from evaluation.thinking_table import (
    GREEDY,
    markdown,
    read_settings,
    separation,
    tokens_plot,
)
from evaluation.thinking_twins import twins

BUDGET: Final = 32
WINDOW: Final = 8
"""Tokens. Traces have about thirty, and a window of 2048, which is meant for reasoning, would hold
each of them whole."""

WARMUP: Final = 8

_COMMON: Final = (
    *(f"--budget={BUDGET}", f"--window={WINDOW}", "--traces-at-once=8", "--concurrency=8"),
    *("--extract=regex", r"--pattern=Answer: (\d+)", "--equal=number", "--traces=summary"),
)
_NO_STOP: Final = ("--calibrate=none",)
_NO_CONSENSUS: Final = ("--consensus=none",)
_SHARE: Final = ("--consensus=weighted_share", "--consensus-threshold=0.95")
_SUREST_FIRST: Final = ("--vote=min_window_weighted,majority",)


def _deepconf(keep_top: float) -> tuple[str, ...]:
    return ("--calibrate=warmup", f"--warmup={WARMUP}", f"--keep-top={keep_top}", *_SUREST_FIRST)


SETTINGS: Final[Mapping[str, Sequence[str]]] = MappingProxyType(
    {
        "all": (
            *(*_NO_STOP, *_NO_CONSENSUS),
            "--vote=majority,mean_weighted,min_window_weighted,bottom_window_weighted,"
            "self_certainty_borda",
        ),
        "deepconf_low": (*_deepconf(0.1), *_NO_CONSENSUS),
        "beta": (
            *(*_NO_STOP, "--consensus=beta", "--consensus-threshold=0.95"),
            "--vote=majority,min_window_weighted",
        ),
        "weighted_share": (*_NO_STOP, *_SHARE, *_SUREST_FIRST),
        "deepconf_high": (*_deepconf(0.9), *_NO_CONSENSUS),
        "deepconf_low_share": (*_deepconf(0.1), *_SHARE),
        GREEDY: (*("--budget=1", "--vote=majority"), *_NO_STOP, *_NO_CONSENSUS),
    }
)
"""The flags of `conf-server think` in each setting, after those that all have. The first one ends
nothing early, and the others are held against it."""

TEMPERATURES: Final[Mapping[str, float]] = MappingProxyType({GREEDY: 0.0})
"""Of settings in which it is not 1."""


def run(folder: Path, url: str) -> int:
    """Have the questions answered in every setting, and return the first exit status that is not 0.

    What comes after it is not begun: whoever stops one setting means all of them.
    """
    for name, flags in SETTINGS.items():
        temperature = TEMPERATURES.get(name, 1.0)
        questions = folder / f"questions-{temperature:g}.jsonl"
        lines = sums_in_steps.lines(temperature)
        questions.write_text("".join(json.dumps(line) + "\n" for line in lines))
        files = [str(questions), "-o", str(folder / f"{name}.jsonl")]
        if status := think([*files, f"--url={url}", *_COMMON, *flags]):
            return status
    return 0


def report(folder: Path) -> None:
    """Print what the settings have come to and whether their traces are the same, and draw it."""
    files = {name: folder / f"{name}.jsonl" for name in SETTINGS}
    settings = read_settings(files)
    print(f"{markdown(settings)}\n\n{separation(settings[0])}")
    print("\n".join(replays(settings[0].questions)))
    everything, *others = (name for name in SETTINGS if name not in TEMPERATURES)
    for name in others:
        print(f"{name}: {twins(files[everything], files[name])}.")
    tokens_plot(settings).png(folder / "accuracy-tokens.png")


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("folder", type=Path)
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--url", help="of a server that runs")
    where.add_argument("--model", help="to serve for this; other flags are the server's")
    given, server_flags = parser.parse_known_args(arguments)
    if given.url and server_flags:
        parser.error(f"the server runs: it takes no {' '.join(server_flags)}")
    given.folder.mkdir(parents=True, exist_ok=True)
    if given.url:
        status = run(given.folder, given.url)
    else:
        flags = ["--model", given.model, *server_flags]
        with ServerProcess(flags, given.folder / "server.log") as server:
            status = run(given.folder, server.url)
    if not status:
        report(given.folder)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
