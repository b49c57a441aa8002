"""The figures as a table, and in sentences what the table leaves open."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from conf_server.report.answers import Answers
from conf_server.report.figures import Figure, MethodFigures
from conf_server.report.labels_file import LabelsFile
from conf_server.report.matching import Match
from conf_server.terminal import readable, shortened

NONE: Final = "–"
HEAD: Final = ("method", "higher =", "answers", "labelled", "mean", "AUROC", "PRR", "ECE")

LONGEST_CELL: Final = 60
"""Characters."""

MATCH_NAMES: Final = {
    "exact": "normalised exact match",
    "contains": "normalised match of words in the answer",
}


def cells(method: MethodFigures) -> tuple[str, ...]:
    """One row of the table, in the order of `HEAD`."""
    # The sum of values near the largest double is infinite, and their mean is not.
    mean = f"{(method.values / method.values.size).sum():.4g}" if method.values.size else NONE
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


def notes(
    answers: Answers,
    methods: Sequence[MethodFigures],
    match: Match,
    labels_file: LabelsFile | None = None,
) -> list[str]:
    """What the table leaves open, in sentences."""
    labels = [one for one in answers.correct if one is not None]
    found = [_labels_note(len(answers), labels), *_labels_file_notes(labels_file)]
    if answers.matched:
        found.append(f"{answers.matched} labels by {MATCH_NAMES[match]} with a reference.")
    found += [f"{count} without a label: {why}." for why, count in answers.unlabelled.items()]
    found += [
        f"Labels that cannot be meant, and count as none, in {_lines(places)}: {why}."
        for why, places in answers.bad_labels.items()
    ]
    if answers.repeated:
        found.append(
            f"Not counted, because the file has the same answer before: {_lines(answers.repeated)}."
        )
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


def _labels_file_notes(labels_file: LabelsFile | None) -> list[str]:
    if labels_file is None:
        return []
    found = [f"{len(labels_file.used)} lines have their labels from {labels_file.path}."]
    if unused := labels_file.unused:
        found.append(f"{labels_file.path}: no answer for the labels of {_lines(unused)}.")
    return found


def _lines(places: Sequence[int]) -> str:
    """`line 3`, or `5 lines, the first one 3`."""
    if len(places) == 1:
        return f"line {places[0]}"
    return f"{len(places)} lines, the first one {places[0]}"


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
    """Why there are dashes in the table. Methods with the same reason share a sentence."""
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
    """Table and remarks as lines of text."""
    rows = [HEAD, *(tuple(map(_shown, cells(method))) for method in methods)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            cell.rjust(width) if 2 <= place < 5 else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return "\n".join([*lines, "", *map(shortened, remarks)])


def _shown(cell: str) -> str:
    """One line: the names of methods are the file's."""
    return readable(shortened(cell, LONGEST_CELL)).replace("\n", "\\n")
