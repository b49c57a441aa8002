"""The plots of one method: its values, what a threshold leaves, and whether it is calibrated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from conf_server.report.drawing import BLUE, GREY, VERMILION, Plot
from conf_server.report.evaluation_metrics import levels_of, oracle_curve, wilson_interval
from conf_server.report.figures import MethodFigures

Floats = NDArray[np.float64]

BARS: Final = 30
LARGEST_DRAWN: Final = 1e300
"""No axis reaches further: the width of a wider one, with its margins, is no double."""

MOST_POINTS: Final = 500
SETTLED: Final = 0.05
"""The share of answers below which risk-coverage curves jump with every single one."""

MOST_WHOLE: Final = 40
"""Whole numbers get a bar each if they span no more than this."""


def plots_of(method: MethodFigures) -> dict[str, Plot]:
    """The plots of a method by short names, those that can be drawn."""
    found: dict[str, Plot] = {}
    if has_distribution(method):
        found["distribution"] = distribution(method)
    if method.labelled:
        found["risk-coverage"] = risk_coverage_curve(method)
    if method.reliability is not None:
        found["reliability"] = reliability_diagram(method)
    return found


def has_distribution(method: MethodFigures) -> bool:
    """Whether there are values to draw, and an axis can hold them."""
    return bool(method.values.size) and bool(np.abs(method.values).max() <= LARGEST_DRAWN)


def distribution(method: MethodFigures) -> Plot:
    """Histogram of the values: right answers upwards, wrong ones downwards."""
    right = method.values[method.correct == 1]
    wrong = method.values[method.correct == 0]
    unknown = method.values[np.isnan(method.correct)]
    edges, width = _bins(method.values)

    def draw(axes: Any) -> None:
        bars = {"width": np.diff(edges) * width, "align": "edge", "linewidth": 0.6}
        places = edges[:-1] + np.diff(edges) * (1 - width) / 2
        for values, sign, name, style in (
            (right, 1, "right", {"color": BLUE, "edgecolor": BLUE}),
            (wrong, -1, "wrong", {"color": "none", "edgecolor": VERMILION, "hatch": "////"}),
            (unknown, 1, "not labelled", {"color": "none", "edgecolor": GREY, "hatch": "...."}),
        ):
            if values.size:
                count = sign * np.histogram(values, edges)[0]
                axes.bar(places, count, label=f"{name} ({values.size})", **bars, **style)
        _count_axis(axes)
        axes.set(xlabel=method.name, ylabel="answers")
        if width < 1:
            axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, borderpad=0)

    what = "right answers upwards, wrong ones downwards" if right.size or wrong.size else "all"
    return Plot(draw, f"distribution: {what}", f"distribution of {method.name}")


def _bins(values: Floats) -> tuple[Floats, float]:
    """The edges of the bars, and how much of the room between two edges a bar fills."""
    low, high = values.min(), values.max()
    if high - low <= MOST_WHOLE and np.abs(values - values.round()).max() < 1e-6:
        return np.arange(round(low) - 0.5, round(high) + 1), 0.7
    return np.histogram_bin_edges(values, BARS, _span(values)), 1.0


def _span(values: Floats) -> tuple[float, float]:
    """From the least to the largest value, and wider where all are equal: bars need a width."""
    low, high = float(values.min()), float(values.max())
    if levels_of([low, high])[1]:
        return low, high
    margin = max(1.0, abs(high)) / 2
    return low - margin, high + margin


def _count_axis(axes: Any) -> None:
    """Counts in both directions: whole, and without a sign."""
    axes.axhline(0, color=GREY, linewidth=0.8)
    axes.yaxis.get_major_locator().set_params(integer=True)
    axes.yaxis.set_major_formatter(lambda count, _: f"{abs(count):.0f}")


def risk_coverage_curve(method: MethodFigures) -> Plot:
    """Share of wrong answers among those that are kept, the surest first."""
    curve = method.risk_coverage()

    def draw(axes: Any) -> None:
        coverage_axes(axes, method, [curve])
        axes.plot(*thinned(*curve), color=BLUE, marker="o", markersize=2)

    return Plot(
        draw,
        "risk-coverage: errors among the surest answers that are kept",
        f"risk-coverage of {method.name}",
    )


def thinned(coverage: Floats, risk: Floats) -> tuple[Floats, Floats]:
    """A curve of at most `MOST_POINTS` points."""
    kept = np.unique(np.linspace(0, coverage.size - 1, MOST_POINTS).round().astype(int))
    return coverage[kept], risk[kept]


def coverage_axes(
    axes: Any, method: MethodFigures, curves: Sequence[tuple[Floats, Floats]]
) -> None:
    """The axes of risk-coverage curves, with what chance does, and an oracle.

    They are as high as the curves are where at least `SETTLED` of the answers are kept.
    """
    random = method.wrong_share
    peaks = [float(risk[coverage >= SETTLED].max()) for coverage, risk in curves]
    top = min(1.02, 1.15 * max(random, *peaks, 0.05))
    axes.axhline(random, color=GREY, linestyle=":", linewidth=1.2)
    beside = {"xytext": (3, 0), "textcoords": "offset points", "va": "center", "fontsize": 8}
    axes.annotate("random", (1, random), color=GREY, annotation_clip=False, **beside)
    coverage, risk = oracle_curve(method.levels)
    axes.plot(coverage, risk, color=GREY, linestyle="--", linewidth=1)
    middle = (1 + (1 - random)) / 2
    place = (middle, float(np.interp(middle, coverage, risk)))
    offset = {"xytext": (4, -3), "textcoords": "offset points", "va": "top", "fontsize": 8}
    axes.annotate("oracle", place, color=GREY, ha="left" if random > 0.3 else "right", **offset)
    axes.set(xlim=(0, 1.0), ylim=(0, top), xlabel="answers kept, the surest first")
    axes.set_ylabel("errors among them")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda share, _: f"{100 * share:.0f} %")


def reliability_diagram(method: MethodFigures) -> Plot:
    """Share of right answers by confidence, with intervals and how many answers a bin holds."""
    bins = method.reliability
    assert bins is not None
    low, high = wilson_interval(bins.accuracy * bins.count, bins.count)
    error = np.maximum(0, [bins.accuracy - low, high - bins.accuracy])

    def draw(axes: Any) -> None:
        if method.is_probability:
            axes.plot([0, 1], [0, 1], color=GREY, linestyle=":", linewidth=1.2)
        axes.errorbar(
            bins.confidence,
            bins.accuracy,
            yerr=error,
            color=BLUE,
            marker="o",
            markersize=4,
            linewidth=1,
            elinewidth=1,
            capsize=2,
        )
        for x, count in zip(bins.confidence, bins.count, strict=True):
            axes.annotate(f"{count}", (x, 1.07), ha="center", va="bottom", fontsize=7, color=GREY)
        axes.text(-0.05, 1.16, "answers in each bin", fontsize=7, color=GREY, va="bottom")
        name = "confidence" if method.is_probability else "percentile of confidence"
        axes.set(xlim=(-0.05, 1.05), ylim=(-0.03, 1.26), xlabel=name, ylabel="right among them")
        axes.set_yticks([0, 0.25, 0.5, 0.75, 1.0])
        axes.spines["left"].set_bounds(0, 1)

    what = "reliability" if method.is_probability else "reliability of ranks: no calibration"
    return Plot(draw, f"{what}, with 95 % intervals", f"reliability of {method.name}")
