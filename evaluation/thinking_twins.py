"""Are traces of one seed the same in every setting, and stopped where the whole ones say?

Two outputs of `conf-server think` over the same questions: in one, nothing was ended early.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conf_server.report.json_lines import read_objects
from conf_server.thinking.traces import FINISHED, STOPPED, is_whole

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Twins:
    """What was found.

    Attributes:
        whole: traces that ran to their end in both.
        same: of these, how many have the same answer, number of tokens and `min_conf`.
        watched: traces that a threshold could have stopped, and nothing else has ended early.
        foretold: of these, how many were stopped if the whole trace has a window below the
            threshold, and ran to their end if it has none. A window that first falls below it
            with the token that ends the trace has nothing left to stop.
    """

    whole: int
    same: int
    watched: int
    foretold: int

    def __str__(self) -> str:
        text = f"{self.same:,} of {self.whole:,} whole traces are the same"
        if self.watched:
            text += f"; {self.foretold:,} of {self.watched:,} were stopped where they should be"
        return text


def twins(everything: Path, other: Path) -> Twins:
    """Hold the traces of an output against those of one that has them whole.

    Raises:
        KeyError: a trace has no twin.
    """
    whole = {line: rows for line, _, rows in _thoughts(everything)}
    same, foretold = list[bool](), list[bool]()
    for line, threshold, rows in _thoughts(other):
        for index, row in rows.items():
            twin = whole[line][index]
            if is_whole(row["status"]):
                names = ("answer", "num_tokens", "min_conf")
                same.append(all(row[name] == twin[name] for name in names))
            if threshold is None or row["phase"] != "final":
                continue
            if is_whole(row["status"]) or row["status"] == STOPPED:
                foretold.append(_is_foretold(row, twin, threshold))
    return Twins(len(same), sum(same), len(foretold), sum(foretold))


def _thoughts(path: Path) -> Iterator[tuple[int, float | None, dict[int, Row]]]:
    """The number of each line of the input, its threshold, and its traces by their number."""
    for _, line in read_objects(str(path)):
        think = line["result"]["think"]
        yield line["line"], think["threshold"], {row["index"]: row for row in think["traces"]}


def _is_foretold(row: Row, twin: Row, threshold: float) -> bool:
    is_below = twin["min_conf"] < threshold
    if is_below and row["status"] == FINISHED:
        return bool(twin["tail_conf"] == twin["min_conf"])  # the last window is the lowest
    return bool(is_below == (row["status"] == STOPPED))
