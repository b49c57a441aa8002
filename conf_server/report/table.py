"""The figures as rows of a table, and the table as lines of text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from conf_server.report.figures import KEPT, Figure, MethodFigures
from conf_server.report.headline import percent
from conf_server.report.standing import Standing
from conf_server.terminal import readable, shortened

NONE: Final = "–"
HEAD: Final = (
    *("method", "AUROC", "PRR", f"errors at {percent(KEPT)}", "ECE"),
    *("mean", "answers", "labelled", "higher ="),
)
LEFT: Final = (0, 8)
"""Columns of words; those of numbers are aligned to the right."""

LONGEST_CELL: Final = 60
"""Characters."""


def rows_of(standing: Standing) -> tuple[MethodFigures, ...]:
    """The methods that have a row: all but twins of others, and those of one value alone."""
    return (*standing.ranked, *standing.unranked)


def cells(method: MethodFigures, twins: Sequence[MethodFigures] = ()) -> tuple[str, ...]:
    """One row of the table, in the order of `HEAD`."""
    name = method.name + ("*" if method.inexact else "")
    return (
        f"{name} +{len(twins)}" if twins else name,
        *(figure_text(one) for one in (method.auroc, method.prr, method.risk, method.ece)),
        mean_text(method),
        str(method.values.size),
        str(method.labelled),
        direction_text(method),
    )


def mean_of(method: MethodFigures) -> float | None:
    """The mean of the values as the server gave them."""
    if not method.values.size:
        return None
    # The sum of values near the largest double is infinite, and their mean is not.
    return float((method.values / method.values.size).sum())


def mean_text(method: MethodFigures) -> str:
    """The same in four digits."""
    mean = mean_of(method)
    return NONE if mean is None else f"{mean:.4g}"


def direction_text(method: MethodFigures) -> str:
    """What higher values mean."""
    return "less sure" if method.sign > 0 else "surer"


def figure_text(figure: Figure) -> str:
    """`0.871 [0.740, 0.969]`; a dash for what is not there."""
    if figure.value is None:
        return NONE
    text = f"{figure.value:.3f}"
    if figure.interval is not None:
        text += " [{:.3f}, {:.3f}]".format(*figure.interval)
    return text + (f" [{NONE}]" if figure.no_interval else "")


def as_text(standing: Standing) -> str:
    """The table as lines of text, the best AUROC first; empty where no method has a row."""
    methods = rows_of(standing)
    if not methods:
        return ""
    found = [cells(one, standing.twins.get(one.name, ())) for one in methods]
    return aligned([HEAD, *found], LEFT)


def aligned(rows: Sequence[tuple[str, ...]], words: Sequence[int]) -> str:
    """Rows as lines of text.

    Args:
        words: columns that are aligned to the left; all others are to the right.
    """
    shown = [tuple(map(_shown, row)) for row in rows]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if place in words else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in shown
    ]
    return "\n".join(lines)


def _shown(cell: str) -> str:
    """One line: the names of methods are the file's."""
    return readable(shortened(cell, LONGEST_CELL)).replace("\n", "\\n")
