"""The figures as a table: cells, notes, and lines for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from conf_server.report.answers import Answers
from conf_server.report.figures import Figure, MethodFigures
from conf_server.report.matching import Match

NONE: Final = "–"
HEAD: Final = ("method", "higher =", "answers", "labelled", "mean", "AUROC", "PRR", "ECE")

MATCH_NAMES: Final = {
    "exact": "normalised exact match",
    "contains": "normalised match of words in the answer",
}


def cells(method: MethodFigures) -> tuple[str, ...]:
    """In the order of `HEAD`."""
    mean = f"{method.values.mean():.4g}" if method.values.size else NONE
    return (
        method.name + ("*" if method.inexact else ""),
        "less sure" if method.sign > 0 else "surer",
        str(method.values.size),
        str(method.labelled),
        mean,
        *(_figure_text(figure) for figure in (method.auroc, method.prr, method.ece)),
    )


def _figure_text(figure: Figure) -> str:
    if figure.value is None:
        return NONE
    text = f"{figure.value:.3f}"
    if figure.interval is not None:
        text += " [{:.3f}, {:.3f}]".format(*figure.interval)
    return text + (f" [{NONE}]" if figure.no_interval else "")


def notes(answers: Answers, methods: Sequence[MethodFigures], match: Match) -> list[str]:
    """What the table leaves open, in sentences."""
    labels = [one for one in answers.correct if one is not None]
    found = [_labels_note(len(answers), labels)]
    if answers.matched:
        found.append(f"{answers.matched} labels by {MATCH_NAMES[match]} with a reference.")
    found += [f"{count} without a label: {why}." for why, count in answers.unlabelled.items()]
    found += [
        f"{name} was not available for {count} answers: {why}"
        for (name, why), count in answers.unavailable.items()
    ]
    if answers.failed:
        found.append(f"Failed lines, which are not in here: {answers.failed}.")
    inexact = [one for one in methods if one.inexact]
    if inexact:
        counts = ", ".join(f"{one.name} {one.inexact} of {one.values.size}" for one in inexact)
        found.append(f"* marked as not exact by the server: {counts}.")
    return found + _reasons(methods)


def _labels_note(count: int, labels: Sequence[bool]) -> str:
    if not labels:
        return (
            f"{count} answers, none with a label: AUROC, PRR, ECE, risk-coverage and "
            "reliability need `correct` or `reference` in the lines."
        )
    return (
        f"{count} answers, {len(labels)} with a label, {sum(labels)} of them correct "
        f"({sum(labels) / len(labels):.1%})."
    )


def _reasons(methods: Sequence[MethodFigures]) -> list[str]:
    """Why there are dashes, the methods with the same reason together."""
    who: dict[str, list[str]] = {}
    for method in methods:
        for name, figure in (("AUROC", method.auroc), ("PRR", method.prr), ("ECE", method.ece)):
            if figure.reason:
                who.setdefault(f"no {name}: {figure.reason}", []).append(method.name)
            if figure.no_interval:
                who.setdefault(f"no interval of {name}: {figure.no_interval}", []).append(
                    method.name
                )
    everywhere = len(methods)
    return [
        f"{why} (all methods)." if len(names) == everywhere else f"{why} ({', '.join(names)})."
        for why, names in who.items()
    ]


def as_text(methods: Sequence[MethodFigures], remarks: Sequence[str]) -> str:
    """For a terminal."""
    rows = [HEAD, *map(cells, methods)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            cell.rjust(width) if 2 <= place < 5 else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return "\n".join([*lines, "", *remarks])
