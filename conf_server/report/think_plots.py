"""The plots of a file of `conf-server think`: accuracy against tokens, and what stopping drops."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from conf_server.report.drawing import BLUE, GREY, SERIES, VERMILION, Plot
from conf_server.report.early_stop_cost import StopCosts
from conf_server.report.figures import Figure
from conf_server.report.think_findings import ThinkFindings
from conf_server.report.vote_curves import VoteCurve, VoteCurves

_SIZE: Final = (4.6, 3.4)


def think_plots(found: ThinkFindings) -> dict[str, Plot]:
    """The plots by short names, those that can be drawn."""
    plots: dict[str, Plot] = {}
    if found.curves is not None and found.drawn:
        plots["accuracy-tokens"] = accuracy_against_tokens(found.curves, found.drawn)
    if found.costs is not None:
        plots["early-stop"] = dropped_traces(found.costs)
    return plots


def accuracy_against_tokens(curves: VoteCurves, drawn: Sequence[VoteCurve]) -> Plot:
    """Accuracy of each vote over its tokens; the first one with its interval.

    Args:
        drawn: those with a line, the deciding one first.
    """
    shown = drawn[: len(SERIES)]

    def draw(axes: Any) -> None:
        low, high = _ends(shown[0].accuracy)
        axes.fill_between(curves.tokens, low, high, color=BLUE, alpha=0.15, linewidth=0)
        for curve, (colour, style, marker) in zip(shown, SERIES, strict=False):
            accuracy = [one.value for one in curve.accuracy]
            line = {"color": colour, "linestyle": style, "marker": marker, "markersize": 3.5}
            axes.plot(curves.tokens, accuracy, label=curve.name, linewidth=1.4, **line)
        axes.set_xscale("log")
        axes.set_xticks(curves.tokens, [_compact(tokens) for tokens in curves.tokens])
        axes.minorticks_off()
        axes.set(xlabel="tokens a question", ylabel="right answers")
        axes.yaxis.set_major_formatter(lambda share, _: f"{100 * share:.0f} %")
        for x, budget in zip(curves.tokens, curves.budgets, strict=True):
            offset = {"xytext": (0, 3), "textcoords": "offset points", "ha": "center"}
            axes.annotate(f"{budget}", (x, axes.get_ylim()[0]), color=GREY, fontsize=7, **offset)
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderpad=0)

    return Plot(
        draw,
        "Right answers against tokens, when the first 1, 2, 4, ... traces (grey) of each question "
        f"count; band: 95 % interval of {shown[0].name}",
        "accuracy of each vote against tokens",
        _SIZE,
    )


def dropped_traces(costs: StopCosts) -> Plot:
    """The shares of right and of wrong traces that each threshold drops, and chance."""

    def draw(axes: Any) -> None:
        shares = [one.keep_top for one in costs.costs]
        axes.plot(shares, [1 - share for share in shares], color=GREY, linestyle=":", linewidth=1.2)
        for name, figures, colour, marker in (
            ("right answer", [one.right_dropped for one in costs.costs], BLUE, "o"),
            ("wrong or none", [one.wrong_dropped for one in costs.costs], VERMILION, "s"),
        ):
            values = np.array([np.nan if one.value is None else one.value for one in figures])
            low, high = _ends(figures)
            error = np.maximum(0, [values - low, high - values])
            style = {"color": colour, "marker": marker, "markersize": 4, "linewidth": 1.2}
            axes.errorbar(shares, values, yerr=error, label=name, elinewidth=1, capsize=2, **style)
        axes.set(xlabel="keep_top", ylabel="complete traces dropped", ylim=(-0.02, 1.02))
        axes.invert_xaxis()
        axes.yaxis.set_major_formatter(lambda share, _: f"{100 * share:.0f} %")
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderpad=0)

    return Plot(
        draw,
        "Complete traces that a threshold on their least confident window would have dropped, with "
        "95 % intervals; dotted: as many as it is meant to drop",
        "traces that early stopping would drop",
        _SIZE,
    )


def _compact(tokens: float) -> str:
    return f"{tokens:.0f}" if tokens < 1000 else f"{tokens / 1000:.3g}k"


def _ends(figures: Sequence[Figure]) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper ends of intervals; the value itself where there is none."""
    value = [np.nan if one.value is None else one.value for one in figures]
    ends = [one.interval or (at, at) for one, at in zip(figures, value, strict=True)]
    return np.array([low for low, _ in ends]), np.array([high for _, high in ends])
