"""What the page says of traces: accuracy against tokens, and the cost of early stopping."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from conf_server.report.markup import bullets, paragraphs, plain, text_of
from conf_server.report.think_findings import ThinkFindings, cost_rows, vote_rows
from conf_server.report.think_plots import think_plots

HOW_VOTES: Final = (
    "Each vote is held again over the first 1, 2, 4, ... traces of every question, in the order in "
    "which they were started, of those that voted in the run; where none of them did, over the "
    "complete ones. A question without an answer counts as wrong. Last column: with all traces, "
    "less the majority over the same draws. The best of several votes on the questions that it was "
    "chosen on looks better than it is: choose here, and measure on others."
)
HOW_COSTS: Final = (
    "For each question, a threshold is taken as early stopping takes it, and every complete trace "
    "whose least confident window lies below it is dropped: shares of those with a right answer, "
    "and of the others; then the share of questions that `{vote}` of the rest answers rightly, "
    "however few they are (a run lets all vote where fewer than `min_voters` are left), and how "
    "many right answers it loses and finds. {source} A trace at the threshold passes: where many "
    "traces of a question are the same text, fewer are dropped than the threshold is meant to "
    "drop. How many tokens a stop would have saved is not recorded."
)


def think_section(found: ThinkFindings, prefix: str, has_plots: bool) -> Iterator[str]:
    """The whole section.

    Args:
        prefix: of all places on the page that are this file's.
    """
    yield f'<section id="{prefix}think"><h2>Accuracy against tokens</h2>'
    if has_plots and (plots := think_plots(found)):
        yield '<div class="pair charts">'
        for name, plot in plots.items():
            element = plot.svg(f"{prefix}plot-{name}")
            yield f"<figure>{element}<figcaption>{plain(plot.caption)}</figcaption></figure>"
        yield "</div>"
    if rows := vote_rows(found):
        yield from _rows(rows)
        yield from paragraphs([HOW_VOTES])
    yield from bullets(found.remarks)
    if found.costs is not None:
        yield "<h2>What early stopping would have cost</h2>"
        yield from _rows(cost_rows(found))
        yield from paragraphs([HOW_COSTS.format(vote=found.costs.vote, source=_source(found))])
    yield "</section>"


def _source(found: ThinkFindings) -> str:
    costs = found.costs
    assert costs is not None
    if costs.from_warmup == costs.num_questions:
        return "The threshold is that of the question's own warm-up traces."
    if not costs.from_warmup:
        return "There was no warm-up: the threshold is that of all complete traces of the question."
    return (
        f"The threshold is that of the warm-up traces of {costs.from_warmup} questions, and of all "
        f"complete traces of the other {costs.num_questions - costs.from_warmup}."
    )


def _rows(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    head, *others = rows
    yield '<div class="scroll"><table><thead><tr>'
    yield from (f'<th scope="col">{text_of(cell)}</th>' for cell in head)
    yield "</tr></thead><tbody>"
    for row in others:
        yield f"<tr>{''.join(f'<td>{plain(cell)}</td>' for cell in row)}</tr>"
    yield "</tbody></table></div>"
