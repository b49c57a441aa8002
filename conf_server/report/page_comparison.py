"""Several files side by side on the page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from conf_server.report.drawing import Plot
from conf_server.report.markup import paragraphs, plain, text_of
from conf_server.report.overview_plots import forest_of_files
from conf_server.report.side_by_side import Compared, comparison_rows

DIFFERENCES: Final = (
    "Columns of files: over all labelled answers of each. Differences: where files are paired, "
    "over the answers to the same questions, and their intervals draw the same questions in both. "
    "The top of the page says which are."
)


def comparison_plot(comparison: Compared) -> Plot:
    """AUROC of each method in each file."""
    labels = [file.label for file in comparison.files]
    names = comparison.names
    return forest_of_files(names, labels, [comparison.figures(name) for name in names])


def comparison_section(
    comparison: Compared, anchors: Sequence[Mapping[str, str]], has_plots: bool
) -> Iterator[str]:
    """The forest plot and the table of several files.

    Args:
        anchors: by file, where the details of each method are.
    """
    yield '<section id="comparison"><h2>AUROC, side by side</h2>'
    names = comparison.names
    if not names:
        yield from paragraphs(["The files have no method in common."])
    elif has_plots:
        plot = comparison_plot(comparison)
        yield f'<figure class="forest">{plot.svg("plot-comparison")}'
        yield f"<figcaption>{plain(plot.caption)}</figcaption></figure>"
    head, *rows = comparison_rows(comparison)
    yield '<div class="scroll"><table><thead><tr>'
    yield from (f'<th scope="col">{plain(name)}</th>' for name in head)
    yield "</tr></thead><tbody>"
    for row in rows:
        place = next(one[row[0]] for one in anchors if row[0] in one)
        yield f'<tr><td><a href="#{place}">{plain(row[0])}</a></td>'
        yield from (f"<td>{plain(cell)}</td>" for cell in row[1:])
        yield "</tr>"
    yield "</tbody></table></div>"
    yield f"<p>{text_of(DIFFERENCES)}</p></section>"
