"""The table of docs/lm-polygraph.md: which of lm-polygraph's estimators a served model runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

RECORDED: Final = Path(__file__).with_name("polygraph.json")
PAGE: Final = Path(__file__).parents[3] / "docs" / "lm-polygraph.md"
START, END = "<!-- estimators: begin -->\n", "<!-- estimators: end -->\n"


@dataclass(frozen=True)
class Row:
    """What became of an estimator.

    Attributes:
        reason: what it wants that a served model does not give; None where it runs, unmodified.
        needs: what else it needs.
        gap: largest difference between its values on a served model and on transformers; None
            where it does not run, or draws at random itself.
    """

    name: str
    reason: str | None
    needs: str = ""
    gap: float | None = None


def table(rows: list[Row]) -> str:
    """The rows as Markdown; those that want the same and do not run share one."""
    lines = ["| estimator | runs | needs | largest difference |", "|---|---|---|---|"]
    for row in rows:
        if row.reason is None:
            gap = "it draws itself" if row.gap is None else f"{row.gap:.0e}" if row.gap else "0"
            lines.append(f"| `{row.name}` | yes | {row.needs} | {gap} |")
    for reason in dict.fromkeys(row.reason for row in rows if row.reason is not None):
        names = ", ".join(f"`{row.name}`" for row in rows if row.reason == reason)
        lines.append(f"| {names} | no | {reason} | |")
    return "\n".join(lines) + "\n"


def write_table(rows: list[Row]) -> None:
    before, rest = PAGE.read_text().split(START)
    _, after = rest.split(END)
    PAGE.write_text(before + START + table(rows) + END + after)
