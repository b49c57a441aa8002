"""The table of the page: sorted, with bars, what is at chance in grey, twins in one row."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

from conf_server.report.figures import Figure, MethodFigures
from conf_server.report.findings import Findings
from conf_server.report.markup import plain, text_of
from conf_server.report.standing import is_at_chance
from conf_server.report.table import (
    HEAD,
    LEFT,
    cells,
    direction_text,
    figure_text,
    mean_of,
    mean_text,
    rows_of,
)

TITLES: Final = {
    "AUROC": "How well the uncertainty detects wrong answers: 1 is perfect, 0.5 is chance",
    "PRR": "Prediction rejection ratio: 1 rejects as an oracle does, 0 as chance does",
    "errors at 80 %": "Share of wrong answers among the surest 80 %",
    "ECE": "Expected calibration error, of probabilities: 0 is best",
    "mean": "Of the values as the server gave them",
}

SORTED_BY: Final[tuple[Callable[[MethodFigures], object], ...]] = (
    lambda one: one.name,
    lambda one: one.auroc.value,
    lambda one: one.prr.value,
    lambda one: one.risk.value,
    lambda one: one.ece.value,
    mean_of,
    lambda one: one.values.size,
    lambda one: one.labelled,
    direction_text,
)
"""By the columns of `HEAD`, what a click sorts the rows by."""


def table(findings: Findings, anchors: Mapping[str, str]) -> Iterator[str]:
    """The whole table.

    Args:
        anchors: where the details of each method are.
    """
    standing = findings.standing
    yield '<div class="scroll"><table class="sortable">\n<thead><tr>'
    for place, name in enumerate(HEAD):
        words = ' class="words"' if place in LEFT else ""
        order = ' aria-sort="descending"' if name == "AUROC" else ""
        title = f' title="{TITLES[name]}"' if name in TITLES else ""
        yield f'<th scope="col"{words}{order}{title}><button>{plain(name)}</button></th>'
    yield "</tr></thead>\n<tbody>"
    start = _start(rows_of(standing))
    for method in rows_of(standing):
        yield from _row(method, standing.twins.get(method.name, ()), anchors, start)
    yield "</tbody>"
    if standing.constant:
        yield f'<tbody><tr class="folded"><td colspan="{len(HEAD)}">'
        yield f"{_constant(standing.constant, anchors)}</td></tr></tbody>"
    yield "</table></div>"


def _row(
    method: MethodFigures,
    twins: Sequence[MethodFigures],
    anchors: Mapping[str, str],
    start: float,
) -> Iterator[str]:
    reasons = ("", *(one.reason or one.no_interval for one in _figures(method)), *[""] * 4)
    yield '<tr class="chance">' if is_at_chance(method) else "<tr>"
    texts = cells(method)
    for place, (text, reason) in enumerate(zip(texts, reasons, strict=True)):
        key = SORTED_BY[place](method)
        value = "" if key is None else plain(str(key))
        title = f' title="{plain(reason)}"' if reason else ""
        words = ' class="words"' if place in LEFT else ""
        content = _interval_apart(text)
        if place == 0:
            content = _name(text, method, twins, anchors)
        elif place == 1:
            content = _bar(method.auroc, start) + content
        yield f'<td{words}{title} data-value="{value}">{content}</td>'
    yield "</tr>"


def _figures(method: MethodFigures) -> tuple[Figure, ...]:
    return method.auroc, method.prr, method.risk, method.ece


def _interval_apart(text: str) -> str:
    value, space, interval = text.partition(" [")
    if not space:
        return plain(text)
    return f'{plain(value)} <span class="interval">[{plain(interval)}</span>'


def _name(
    text: str,
    method: MethodFigures,
    twins: Sequence[MethodFigures],
    anchors: Mapping[str, str],
) -> str:
    link = f'<a href="#{anchors[method.name]}">{plain(text)}</a>'
    if not twins:
        return link
    others = "<br>".join(f"{_link(one, anchors)}: {_of_twin(one)}" for one in twins)
    count = f"{len(twins)} more rank{'s' * (len(twins) == 1)} alike"
    return f"{link}<details><summary>{count}</summary>{others}</details>"


def _of_twin(twin: MethodFigures) -> str:
    """What a twin does not share with the method whose ranking it has."""
    ece = f", ECE {figure_text(twin.ece)}" if twin.ece.value is not None else ""
    return plain(f"mean {mean_text(twin)}{ece}")


def _link(method: MethodFigures, anchors: Mapping[str, str]) -> str:
    return f'<a href="#{anchors[method.name]}">{plain(method.name)}</a>'


def _constant(methods: Sequence[MethodFigures], anchors: Mapping[str, str]) -> str:
    each = ", ".join(f"{_link(one, anchors)} ({one.values[0]:.4g})" for one in methods)
    return f"{text_of('One value for all answers, which ranks nothing:')} {each}"


def _bar(figure: Figure, start: float) -> str:
    """From one half to the figure, and its interval.

    Args:
        start: the left end of the axis, whose right end is 1.
    """
    if figure.value is None:
        return ""
    ends = [
        ("half", 0.5, 0.5),
        ("value", min(0.5, figure.value), max(0.5, figure.value)),
    ]
    if figure.interval is not None:
        ends.append(("range", *figure.interval))
    parts = [
        f'<i class="{name}" style="left:{100 * (low - start) / (1 - start):.1f}%;'
        f'width:{100 * (high - low) / (1 - start):.1f}%"></i>'
        for name, low, high in ends
    ]
    return f'<span class="bar" aria-hidden="true">{"".join(parts)}</span>'


def _start(methods: Sequence[MethodFigures]) -> float:
    """Where the axis of the bars begins: no interval is cut off."""
    ends = [0.5, *(one.auroc.value for one in methods if one.auroc.value is not None)]
    ends += [one.auroc.interval[0] for one in methods if one.auroc.interval]
    return max(0.0, min(ends) - 0.02)
