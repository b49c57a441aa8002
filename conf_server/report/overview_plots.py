"""The plots of all methods together: AUROC with intervals, risk-coverage, rank correlations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from conf_server.report.clustering import clustered_order
from conf_server.report.drawing import BLUE, GREY, SERIES, Plot
from conf_server.report.figures import Figure, MethodFigures, correlations
from conf_server.report.plots import coverage_axes, thinned
from conf_server.report.standing import Standing, is_at_chance
from conf_server.terminal import shortened

Floats = NDArray[np.float64]

MOST_ROWS: Final = 30
"""Methods of a forest plot: the table has the others."""

MOST_CURVES: Final = 4
WIDTH: Final = 4.6
"""Inches: at 380 pixels the letters are as large as on paper, and at twice that not too large."""

LONGEST_TICK: Final = 34
"""Characters of a name beside an axis."""


def forest(standing: Standing) -> Plot:
    """AUROC of each method with its interval, the best on top, and what chance has."""
    shown = standing.ranked[:MOST_ROWS]
    colours = [GREY if is_at_chance(one) else BLUE for one in shown]

    def draw(axes: Any) -> None:
        for row, (method, colour) in enumerate(zip(shown, colours, strict=True)):
            _whisker(axes, row, method.auroc, colour, "o")
        _forest_axes(axes, [one.name for one in shown])

    left_out = len(standing.ranked) - len(shown)
    more = f"; the best {len(shown)} of {len(standing.ranked)}" if left_out else ""
    return Plot(
        draw,
        f"AUROC with 95 % intervals; dashed: chance; grey: not told from chance{more}",
        "AUROC of each method with its interval",
        (WIDTH, _height(len(shown))),
    )


def forest_of_files(
    names: Sequence[str], files: Sequence[str], figures: Sequence[Sequence[Figure | None]]
) -> Plot:
    """AUROC of each method in each file.

    Args:
        names: of the methods, m of them.
        files: what the files are called, f of them.
        figures: m rows of f figures, None where a file has not the method.
    """

    def draw(axes: Any) -> None:
        step = 0.6 / len(files)
        for row, figures_of_method in enumerate(figures[:MOST_ROWS]):
            for place, figure in enumerate(figures_of_method):
                colour, _, marker = SERIES[place % len(SERIES)]
                if figure is not None and figure.value is not None:
                    where = row + step * (place - (len(files) - 1) / 2)
                    _whisker(axes, where, figure, colour, marker)
        for place, label in enumerate(files):
            colour, _, marker = SERIES[place % len(SERIES)]
            name = shortened(label, LONGEST_TICK)
            axes.plot([], [], color=colour, marker=marker, label=name, markersize=5)
        _forest_axes(axes, names[:MOST_ROWS])
        axes.legend(loc="lower left", bbox_to_anchor=(-0.4, 1), borderpad=0)

    height = _height(round(len(names[:MOST_ROWS]) * (0.5 + 0.5 * len(files)))) + 0.2 * len(files)
    return Plot(
        draw,
        "AUROC with 95 % intervals; dashed: chance",
        "AUROC of each method in each file",
        (WIDTH, height),
    )


def _height(rows: int) -> float:
    return 0.75 + 0.24 * max(3, rows)


def _whisker(axes: Any, row: float, figure: Figure, colour: str, marker: str) -> None:
    if figure.interval is not None:
        axes.plot(figure.interval, [row, row], color=colour, linewidth=1.6)
    axes.plot([figure.value], [row], color=colour, marker=marker, markersize=5)


def _forest_axes(axes: Any, names: Sequence[str]) -> None:
    axes.axvline(0.5, color=GREY, linestyle="--", linewidth=1)
    axes.set_yticks(range(len(names)), [shortened(name, LONGEST_TICK) for name in names])
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set(ylim=(len(names) - 0.4, -0.6), xlabel="AUROC of detecting wrong answers")
    low, high = axes.get_xlim()
    axes.set_xlim(max(0.0, min(low, 0.45)), min(1.01, max(high, 0.75)))


def risk_coverage_chart(standing: Standing) -> Plot:
    """Risk-coverage of the best few methods, with what chance does, and an oracle."""
    shown = standing.ranked[:MOST_CURVES]
    curves = [one.risk_coverage() for one in shown]

    def draw(axes: Any) -> None:
        coverage_axes(axes, shown[0], curves)
        for method, curve, (colour, style, _) in zip(shown, curves, SERIES, strict=False):
            name = shortened(method.name, LONGEST_TICK)
            axes.plot(*thinned(*curve), color=colour, linestyle=style, linewidth=1.5, label=name)
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderpad=0)

    return Plot(
        draw,
        "Errors among the answers that are kept, the surest first. The left end rests on few.",
        "risk-coverage of the best methods",
        (WIDTH, 3.4),
    )


def correlation_map(methods: Sequence[MethodFigures]) -> Plot:
    """A heat map of rank correlations, each with its number; the like are neighbours."""
    found = correlations(methods)
    order = clustered_order(found)
    values = found[np.ix_(order, order)]
    names = [shortened(methods[place].name, LONGEST_TICK) for place in order]

    def draw(axes: Any) -> None:
        axes.imshow(values, vmin=-1, vmax=1, cmap="PuOr")
        places = range(len(names))
        axes.set_xticks(places, names, rotation=60, ha="right", rotation_mode="anchor")
        axes.set_yticks(places, names)
        for row in places:
            for place in places:
                _cell(axes, row, place, float(values[row, place]))

    side = 2.4 + 0.36 * len(names)
    return Plot(
        draw,
        "Spearman's rank correlation of the uncertainties, over answers that have both; methods "
        "in the order of a clustering",
        "rank correlations",
        (side + 0.6, side),
    )


def _cell(axes: Any, row: int, place: int, value: float) -> None:
    middle = {"ha": "center", "va": "center", "fontsize": 7}
    if np.isnan(value):
        axes.text(place, row, "–", **middle)
        return
    ink = "#ffffff" if abs(value) > 0.6 else "#111111"
    axes.text(place, row, f"{value:.2f}".replace("0.", "."), color=ink, **middle)
