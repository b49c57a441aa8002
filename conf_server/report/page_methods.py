"""What the page says of each method alone: plots and answers, folded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from conf_server.report.evaluation_metrics import aurc, risk_at
from conf_server.report.examples import examples_of
from conf_server.report.figures import MethodFigures
from conf_server.report.findings import Findings
from conf_server.report.headline import percent
from conf_server.report.markup import facts, plain, text_of
from conf_server.report.page_answers import two_lists
from conf_server.report.plots import plots_of
from conf_server.report.table import direction_text, figure_text, mean_text
from conf_server.uncertainty.registry import METHODS

COVERAGES = (0.5, 0.8, 0.9)
"""Shares of answers that are kept, of which the details say how many errors are left."""


def method_sections(
    findings: Findings, anchors: Mapping[str, str], has_plots: bool
) -> Iterator[str]:
    """The details of every method, the best AUROC first."""
    for method in findings.methods:
        place = anchors[method.name]
        number = f"AUROC {figure_text(method.auroc)}" if method.auroc.value is not None else ""
        yield f'<details class="method"><summary>{plain(method.name)} '
        yield f'<span class="soft">{number}</span></summary><div class="body" id="{place}">'
        if method.name in METHODS:
            yield f"<p>{_description(method.name)}</p>"
        yield from facts(_facts(method))
        if has_plots:
            yield '<div class="plots">'
            for name, plot in plots_of(method).items():
                element = plot.svg(f"{place}-plot-{name}")
                yield f"<figure>{element}<figcaption>{plain(plot.caption)}</figcaption></figure>"
            yield "</div>"
        if method.labelled and not method.is_constant:
            yield from two_lists(examples_of(findings.answers, method))
        yield "</div></details>"


def _description(name: str) -> str:
    text = METHODS[name].description
    return text_of(f"{text[:1].upper()}{text[1:]}.")


def _facts(method: MethodFigures) -> list[tuple[str, str]]:
    found = [
        ("higher =", direction_text(method)),
        ("answers", f"{method.values.size}, {method.labelled} of them with a label"),
        ("mean", mean_text(method)),
    ]
    if method.labelled and not method.is_constant:
        kept = ", ".join(
            f"{percent(risk_at(method.levels, share))} of the surest {percent(share)}"
            for share in COVERAGES
        )
        found.append(("errors", f"{percent(method.wrong_share)} of all, {kept}"))
        found.append(("AURC", f"{aurc(method.levels):.3f}"))
    if method.ece.value is not None:
        found.append(("ECE", figure_text(method.ece)))
    return found
