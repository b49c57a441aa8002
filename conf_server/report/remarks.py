"""What the table leaves open, in sentences: how labels came about, what is missing, and why."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from conf_server.report.answers import Answers
from conf_server.report.figures import MethodFigures
from conf_server.report.labels_file import LabelsFile
from conf_server.report.match_choice import MatchChoice
from conf_server.report.questions import Questions
from conf_server.report.standing import Standing, is_at_chance, is_inverted
from conf_server.report.table import rows_of
from conf_server.terminal import shortened

MATCH_NAMES: Final = {
    "exact": "normalised exact match",
    "contains": "normalised match of words in the answer",
}
MOST_NAMED: Final = 8
"""Methods that a sentence names; more are counted, and the table shows which."""

DOUBTS: Final = {
    ("wrong", "exact"): "Would `--match contains` fit?",
    ("wrong", "contains"): "Are references written as answers are?",
    ("right", "contains"): "Would `--match exact` fit?",
}
"""What to ask where all labels are the same, by what they say and by how they were found."""

LONGEST_QUOTE: Final = 160
"""Characters of an answer, or of a reference, in a warning."""


def warnings(answers: Answers, choice: MatchChoice) -> list[str]:
    """What is likely a mistake: labels that are all wrong or all right, with one of them."""
    known = [place for place, one in enumerate(answers.correct) if one is not None]
    if len(known) < 2 or len({answers.correct[place] for place in known}) > 1:
        return []
    which = "right" if answers.correct[known[0]] else "wrong"
    found = f"All {len(known)} labels say {which}."
    compared = [answers.answers[place] for place in known if answers.answers[place].compared]
    if not compared:
        return [f"{found} They are `correct` in the lines: is that meant?"]
    example = compared[0]
    return [
        f"{found} For example line {example.line}: the answer {_quoted(example.text or '')} and "
        f"the reference {_quoted(example.compared[0])}, by `--match {choice.match}`. "
        f"{DOUBTS.get((which, choice.match), 'Is that so?')}"
    ]


def _quoted(text: str) -> str:
    return f'"{shortened(" ".join(text.split()), LONGEST_QUOTE)}"'


def match_remark(choice: MatchChoice) -> str:
    """Which comparison was chosen for the user, and why; empty where the user chose it."""
    return f"--match auto chose `{choice.match}`: {choice.why}." if choice.why else ""


def remarks(
    answers: Answers,
    standing: Standing,
    choice: MatchChoice,
    labels_file: LabelsFile | None = None,
    questions: Questions | None = None,
) -> list[str]:
    """All sentences below the table; the first one counts answers and labels."""
    labels = [one for one in answers.correct if one is not None]
    found = [_labels_remark(len(answers), labels), *_labels_file_remarks(labels_file)]
    if answers.matched:
        found.append(f"{answers.matched} labels by {MATCH_NAMES[choice.match]} with a reference.")
        found += filter(None, [match_remark(choice)])
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
    if questions and not questions.used:
        found.append(f"{questions.path}: none of its lines belongs to an answer.")
    return [*found, *_folded(standing), *_inexact(standing), *_missing(standing)]


def _labels_file_remarks(labels_file: LabelsFile | None) -> list[str]:
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


def _labels_remark(count: int, labels: Sequence[bool]) -> str:
    if not labels:
        return (
            f"{count} answers, none with a label: AUROC, PRR, ECE, risk-coverage and "
            "reliability need `correct` or `reference` in the lines."
        )
    return (
        f"{count} answers, {len(labels)} with a label, {sum(labels)} of them correct "
        f"({sum(labels) / len(labels):.1%})."
    )


def _folded(standing: Standing) -> list[str]:
    """Which methods share a row, and which have none."""
    found = [
        f"The same ranking as {name}, and no row of their own: {_names(twins)}."
        for name, twins in standing.twins.items()
    ]
    if standing.constant:
        some = standing.constant[:MOST_NAMED]
        each = ", ".join(f"{one.name} ({one.values[0]:.4g})" for one in some)
        each += f" and {left} more" if (left := len(standing.constant) - len(some)) else ""
        found.append(f"One value for all answers, which ranks nothing: {each}.")
    if chance := [one for one in standing.ranked if one.auroc.interval and is_at_chance(one)]:
        who = "all" if len(chance) == len(standing.ranked) > 1 else _names(chance)
        found.append(f"Not told from chance, as their intervals hold 0.5: {who}.")
    if turned := [one for one in standing.ranked if is_inverted(one)]:
        found.append(
            f"The wrong way round, higher values being right more often: {_names(turned)}."
        )
    return found


def _inexact(standing: Standing) -> list[str]:
    everyone = [*rows_of(standing), *sum(standing.twins.values(), ()), *standing.constant]
    inexact = [one for one in everyone if one.inexact]
    if not inexact:
        return []
    counts = ", ".join(f"{one.name} {one.inexact} of {one.values.size}" for one in inexact)
    return [f"* marked as not exact by the server: {counts}."]


def _missing(standing: Standing) -> list[str]:
    """Why there are dashes in the table. Methods with the same reason share a sentence."""
    who: dict[str, list[MethodFigures]] = {}
    methods = rows_of(standing)
    for method in methods:
        for name, figure in (("AUROC", method.auroc), ("PRR", method.prr), ("ECE", method.ece)):
            if figure.reason:
                who.setdefault(f"no {name}: {figure.reason}", []).append(method)
            if figure.no_interval:
                why = f"no interval of {name}: {figure.no_interval}"
                who.setdefault(why, []).append(method)
    return [
        f"{why} (all methods)." if len(them) == len(methods) else f"{why} ({_names(them)})."
        for why, them in who.items()
    ]


def _names(methods: Sequence[MethodFigures]) -> str:
    if len(methods) > MOST_NAMED:
        return f"{len(methods)} methods"
    return ", ".join(one.name for one in methods)
