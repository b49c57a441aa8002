"""The report as one HTML file, without scripts and without anything to fetch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Final

from conf_server.report.figures import MethodFigures
from conf_server.report.table import HEAD, cells

STYLE: Final = """
:root { color-scheme: light dark; --ink: #1c1f23; --paper: #ffffff; --line: #d5d9de; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e3e6ea; --paper: #15181c; --line: #3a4048; }
}
body { margin: 0 auto; padding: 1rem; max-width: 75rem; color: var(--ink);
  background: var(--paper); font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; white-space: nowrap;
  font-size: .85rem; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid var(--line); text-align: left; }
.plots { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(17rem, 1fr)); }
figure { margin: 0; max-width: 32rem; } figure.map { max-width: 46rem; }
figcaption { font-size: .85rem; }
svg { width: 100%; height: auto; font-family: system-ui, sans-serif; }
"""

EXPLANATION: Final = """
AUROC: how well the uncertainty detects wrong answers; 1 is perfect, 0.5 is chance. PRR: prediction
rejection ratio; 1 rejects as an oracle does, 0 as chance does. ECE: expected calibration error over
ten bins of equal width, only of methods that are probabilities by definition. In brackets: 95 %
percentile intervals of {resamples} bootstrap resamples, seed {seed}. Ties count by their
expectation. Methods whose higher values mean a surer model are turned around first. Of methods
that are no probabilities, the reliability diagram shows the percentile of confidence among these
answers, which says nothing of calibration.
"""


def page(
    title: str,
    remarks: Sequence[str],
    methods: Sequence[MethodFigures],
    plots: Mapping[str, Mapping[str, str]],
    correlation: str | None,
    explanation: str,
) -> str:
    """The whole file.

    Args:
        title: of the page.
        remarks: sentences about the answers; the first one stands above the table.
        methods: the rows of the table.
        plots: by method, SVG elements by their captions.
        correlation: the SVG element of the correlation map; None for no map.
        explanation: what the figures mean.
    """
    return "\n".join(
        [
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>",
            f"<h1>{escape(title)}</h1>",
            *(f"<p>{escape(remark)}</p>" for remark in remarks[:1]),
            '<div class="scroll">',
            *_table(methods),
            "</div>",
            *_list(remarks[1:]),
            f"<p>{escape(explanation)}</p>",
            *_sections(plots),
            *_correlation(correlation),
            "</body>\n</html>\n",
        ]
    )


def _table(methods: Sequence[MethodFigures]) -> Iterator[str]:
    yield "<table>\n<thead><tr>"
    yield from (f'<th scope="col">{escape(name)}</th>' for name in HEAD)
    yield "</tr></thead>\n<tbody>"
    for method in methods:
        reasons = ("",) * 5 + (method.auroc.reason, method.prr.reason, method.ece.reason)
        yield "<tr>"
        for text, reason in zip(cells(method), reasons, strict=True):
            title = f' title="{escape(reason)}"' if reason else ""
            yield f"<td{title}>{escape(text)}</td>"
        yield "</tr>"
    yield "</tbody>\n</table>"


def _list(remarks: Sequence[str]) -> Iterator[str]:
    if remarks:
        yield "<ul>"
        yield from (f"<li>{escape(remark)}</li>" for remark in remarks)
        yield "</ul>"


def _sections(plots: Mapping[str, Mapping[str, str]]) -> Iterator[str]:
    for name, figures in plots.items():
        yield f'<h2>{escape(name)}</h2>\n<div class="plots">'
        for caption, element in figures.items():
            yield f"<figure>{element}<figcaption>{escape(caption)}</figcaption></figure>"
        yield "</div>"


def _correlation(element: str | None) -> Iterator[str]:
    if element is not None:
        caption = "Spearman's rank correlation of the uncertainties, over answers that have both"
        yield "<h2>Correlations</h2>"
        yield f'<figure class="map">{element}<figcaption>{escape(caption)}</figcaption></figure>'
