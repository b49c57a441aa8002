"""The plots of a report as PNG files in a folder."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from conf_server.report.drawing import Plot
from conf_server.report.findings import Findings
from conf_server.report.overview_plots import correlation_map, forest, risk_coverage_chart
from conf_server.report.page_comparison import comparison_plot
from conf_server.report.plots import plots_of
from conf_server.report.side_by_side import Compared
from conf_server.report.think_plots import think_plots


def write_pngs(folder: Path, files: Sequence[Findings], comparison: Compared | None) -> None:
    """Write them; those of each of several files into a folder of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    if comparison and comparison.names:
        comparison_plot(comparison).png(folder / "comparison.png")
    for file in files:
        own = folder / _file_name(file.label) if comparison else folder
        own.mkdir(exist_ok=True)
        for name, plot in _plots(file):
            plot.png(own / f"{_file_name(name)}.png")


def _plots(findings: Findings) -> Iterator[tuple[str, Plot]]:
    standing = findings.standing
    if findings.thinking is not None:
        yield from think_plots(findings.thinking).items()
    if standing.ranked:
        yield "forest", forest(standing)
        yield "risk-coverage", risk_coverage_chart(standing)
    if len(standing.drawn) > 1:
        yield "correlations", correlation_map(standing.drawn)
    for method in findings.methods:
        for name, plot in plots_of(method).items():
            yield f"{method.name}_{name}", plot


def _file_name(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]", "_", name)
