"""Plots, as SVG for a page in any colours and as PNG on white. They need matplotlib."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from conf_server.report.evaluation_metrics import levels_of
from conf_server.report.figures import MethodFigures

Floats = NDArray[np.float64]
Draw = Callable[[Any], None]

RIGHT: Final = "#2a9d6f"
WRONG: Final = "#d1495b"
NEUTRAL: Final = "#4a7fb5"
INK: Final = "#010203"
"""The colour of text and axes, and of nothing else: a page replaces it by its own."""

BARS: Final = 30
LARGEST_DRAWN: Final = 1e300
"""No axis reaches further: the width of a wider one, with its margins, is no double."""

MOST_POINTS: Final = 500
SIZE: Final = (4.2, 3.0)

STYLE: Final[dict[Any, Any]] = {
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "conf-server",
    "text.parse_math": False,
}
INKED: Final = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")


def svg(draw: Draw, label: str, size: tuple[float, float] = SIZE) -> str:
    """The plot as an element of a page. It has the colour of the page's text, and no background.

    Args:
        label: what the plot shows, in words and free of markup.
    """
    text = io.StringIO()
    style = STYLE | dict.fromkeys(INKED, INK)
    _save(draw, size, style, text, format="svg", transparent=True, metadata={"Date": None})
    element = text.getvalue()
    element = element[element.index("<svg ") :].replace(INK, "currentColor")
    return element.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)


def png(draw: Draw, path: Path, size: tuple[float, float] = SIZE) -> None:
    """Write the plot to a file, on white."""
    _save(draw, size, STYLE, path, format="png", dpi=160, facecolor="white")


def _save(
    draw: Draw, size: tuple[float, float], style: dict[Any, Any], target: Any, **options: Any
) -> None:
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(style):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure.add_subplot())
        figure.savefig(target, **options)


def has_distribution(method: MethodFigures) -> bool:
    """Whether there are values to draw, and an axis can hold them."""
    return bool(method.values.size) and bool(np.abs(method.values).max() <= LARGEST_DRAWN)


def distribution(method: MethodFigures) -> Draw:
    """Histogram of the values, one colour for each label that occurs."""
    groups = [
        ("correct", RIGHT, method.values[method.correct == 1]),
        ("wrong", WRONG, method.values[method.correct == 0]),
        ("not labelled", NEUTRAL, method.values[np.isnan(method.correct)]),
    ]
    groups = [group for group in groups if group[2].size]
    edges = np.histogram_bin_edges(method.values, BARS, _span(method.values))

    def draw(axes: Any) -> None:
        for name, colour, values in groups:
            axes.hist(values, edges, alpha=0.55, color=colour, label=f"{name} ({values.size})")
        axes.set(xlabel=method.name, ylabel="answers")
        axes.legend(fontsize=8)

    return draw


def _span(values: Floats) -> tuple[float, float]:
    """From the least to the largest value, and wider where all are equal: bars need a width."""
    low, high = float(values.min()), float(values.max())
    if levels_of([low, high])[1]:
        return low, high
    margin = max(1.0, abs(high)) / 2
    return low - margin, high + margin


def risk_coverage_curve(method: MethodFigures) -> Draw:
    """Share of wrong answers among those that are kept, the surest first."""
    coverage, risk = method.risk_coverage()
    kept = np.unique(np.linspace(0, coverage.size - 1, MOST_POINTS).round().astype(int))

    def draw(axes: Any) -> None:
        axes.plot(coverage[kept], risk[kept], color=NEUTRAL, marker="o", markersize=2)
        axes.axhline(risk[-1], color="#888888", linestyle=":", linewidth=1)
        axes.set(xlim=(0, 1.02), ylim=(0, 1.02), xlabel="coverage: answers kept")
        axes.set_ylabel("risk: wrong among them")

    return draw


def reliability_diagram(method: MethodFigures) -> Draw:
    """Share of correct answers by confidence. A dot's area grows with the answers in its bin."""
    bins = method.reliability
    assert bins is not None
    area = 15 + 150 * bins.count / bins.count.max()

    def draw(axes: Any) -> None:
        axes.plot(bins.confidence, bins.accuracy, color=NEUTRAL, linewidth=1)
        axes.scatter(bins.confidence, bins.accuracy, s=area, color=NEUTRAL, alpha=0.6)
        if method.is_probability:
            axes.plot([0, 1], [0, 1], color="#888888", linestyle=":", linewidth=1)
        name = "confidence" if method.is_probability else "percentile of confidence"
        axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), xlabel=name, ylabel="correct")

    return draw


def correlation_map(names: list[str], values: Floats) -> Draw:
    """A heat map of rank correlations, each with its number."""

    def draw(axes: Any) -> None:
        axes.imshow(values, vmin=-1, vmax=1, cmap="coolwarm")
        places = range(len(names))
        axes.set_xticks(places, names, rotation=60, ha="right")
        axes.set_yticks(places, names)
        for row in places:
            for place in places:
                value = values[row, place]
                middle = {"ha": "center", "va": "center", "fontsize": 7}
                if np.isnan(value):
                    axes.text(place, row, "–", **middle)
                else:
                    ink = "#ffffff" if abs(value) > 0.6 else "#111111"
                    axes.text(place, row, f"{value:.2f}", color=ink, **middle)

    return draw


def map_size(count: int) -> tuple[float, float]:
    """Width and height in inches of a correlation map of `count` methods."""
    side = 2.4 + 0.42 * count
    return (side + 0.6, side)
