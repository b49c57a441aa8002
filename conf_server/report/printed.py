"""What the command prints: headline, table and remarks, for a terminal.

Of several files it prints how they compare; the tables of each are on the page.
"""

from __future__ import annotations

from collections.abc import Sequence

from conf_server.report.findings import Findings
from conf_server.report.headline import Headline
from conf_server.report.side_by_side import Compared, comparison_headline, comparison_rows
from conf_server.report.table import aligned, as_text
from conf_server.report.think_findings import ThinkFindings, cost_rows, vote_rows
from conf_server.terminal import shortened


def printed(files: Sequence[Findings], comparison: Compared | None, notes: Sequence[str]) -> str:
    """All of it.

    Args:
        notes: sentences about the report as a whole.
    """
    blocks = []
    if comparison:
        rows = comparison_rows(comparison)
        blocks += [_words(comparison_headline(comparison)), aligned(rows, words=(0,))]
    for file in files:
        if comparison:
            blocks.append(f"{file.label}:\n{_lines(file.remarks)}")
        else:
            blocks.append(_words(file.headline))
            if file.thinking is not None:
                blocks += _of_traces(file.thinking)
            blocks += [as_text(file.standing), _lines(file.remarks)]
    return "\n\n".join(filter(None, [*blocks, "\n".join(notes)]))


def _of_traces(found: ThinkFindings) -> list[str]:
    """Tables of votes and of early stopping, and what is not known."""
    tables = [aligned(rows, words=(0,)) for rows in (vote_rows(found), cost_rows(found)) if rows]
    return [*tables, _lines(found.remarks)]


def _words(headline: Headline) -> str:
    return _lines((headline.claim, *headline.caveats))


def _lines(sentences: Sequence[str]) -> str:
    """One line each: names and texts of a file may hold ends of lines."""
    return "\n".join(shortened(one).replace("\n", "\\n") for one in sentences)
