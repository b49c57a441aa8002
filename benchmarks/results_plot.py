"""The run as one picture. This imports matplotlib, so it is imported only where one is wanted."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks import chat_cost
from benchmarks.load_client import Label, Results, Sample
from benchmarks.results import Metric, Report, middle
from benchmarks.servers import CONF, OLD, STOCK

COLOURS = {CONF: "#1b7f5c", STOCK: "#8a8f98", OLD: "#c9772b", "transformers": "#5b6ee1"}


def _api_us(sample: Sample) -> float:
    return sample.cpu_us_per_token("api")


def _bars(axes: Axes, results: Results, metric: Metric, title: str, log: bool = False) -> None:
    labels = list(results)
    values = [middle(results[label], metric) for label in labels]
    names = [f"{label[0]}: {label[1]}" for label in labels]
    bars = axes.barh(names, values, color=[COLOURS[label[0]] for label in labels])
    axes.bar_label(bars, fmt="{:,.4g}", padding=3, fontsize=8)
    axes.invert_yaxis()
    axes.set_title(title, fontsize=10)
    axes.margins(x=0.15)
    if log:
        axes.set_xscale("log")


def _lines(axes: Axes, results: Results) -> None:
    series: dict[Label, list[tuple[int, float]]] = {}
    for label, samples in results.items():
        point = (int(label[2]), middle(samples, _api_us))
        series.setdefault(label[:2], []).append(point)
    for (server, name), points in series.items():
        dashes = "--" if name == chat_cost.NOTHING else "-"
        axes.plot(
            *zip(*sorted(points), strict=True),
            dashes,
            marker="o",
            color=COLOURS[server],
            label=f"{server}: {name}",
        )
    axes.set_xscale("log", base=2)
    axes.set_xlabel("concurrent requests")
    axes.set_ylim(bottom=0)
    axes.set_title("API process, CPU µs per token", fontsize=10)
    axes.legend(fontsize=8)


def write(report: Report, path: Path) -> None:
    """Draw a panel for each table that was measured. Without any, nothing is written."""
    whole = {label: s for label, s in report.chat.items() if label[2] == chat_cost.WHOLE}
    scores = report.score
    panels = []
    if whole:
        panels.append(lambda axes: _bars(axes, whole, _api_us, "API process, CPU µs per token"))
        panels.append(
            lambda axes: _bars(axes, whole, Sample.bytes_per_item, "Bytes per response", log=True)
        )
    if scores:
        panels.append(lambda axes: _bars(axes, scores, lambda s: s.seconds, "Scoring, seconds"))
    if report.concurrency:
        panels.append(lambda axes: _lines(axes, report.concurrency))
    if not panels:
        return
    figure = Figure(figsize=(9, 3 * len(panels)), layout="constrained")
    grid = figure.subplots(len(panels), 1, squeeze=False)
    for draw, axes in zip(panels, grid[:, 0], strict=True):
        draw(axes)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
