"""Several files side by side: in words, and as rows of a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from conf_server.report.comparison import Difference, difference_of
from conf_server.report.figures import Figure
from conf_server.report.findings import Findings
from conf_server.report.headline import Headline, percent
from conf_server.report.table import NONE, figure_text


@dataclass(frozen=True)
class Compared:
    """Files held against the first one of them.

    Attributes:
        files: two or more.
        differences: of each file but the first from the first one.
    """

    files: Sequence[Findings]
    differences: Sequence[Difference]

    @property
    def names(self) -> list[str]:
        """Methods that two files have at least, in the order of the first file that has one."""
        found = dict.fromkeys(one.name for file in self.files for one in file.methods)
        return [name for name in found if len([*filter(None, self.figures(name))]) > 1]

    def figures(self, name: str) -> list[Figure | None]:
        """AUROC of a method by file, over all labelled answers; None where it is not there."""
        by_name = [{one.name: one.auroc for one in file.methods} for file in self.files]
        return [figures.get(name) for figures in by_name]


def compared(files: Sequence[Findings], seed: int) -> Compared:
    """Hold files against the first one."""
    return Compared(files, [difference_of(files[0], other, seed) for other in files[1:]])


def comparison_headline(comparison: Compared) -> Headline:
    """Which file has more right answers, and where methods do better."""
    claims, caveats = [], []
    first = comparison.files[0]
    for other, difference in zip(comparison.files[1:], comparison.differences, strict=True):
        claims.append(_accuracy(first.label, other.label, difference))
        caveats.append(_pairing(first, other, difference))
        caveats.append(_methods(other, first, difference))
    for file in comparison.files:
        caveats.append(f"`{file.label}`: {file.headline.claim}")
    return Headline(" ".join(claims), tuple(filter(None, caveats)))


def _accuracy(first: str, other: str, difference: Difference) -> str:
    """Which of the two has more right answers."""
    found = difference.accuracy
    if found.value is None or found.interval is None:
        return f"Right answers of `{other}` and `{first}` cannot be compared: {found.reason}."
    before, after = difference.shares
    if not any((found.value, *found.interval)):
        return f"`{other}` and `{first}` are right on the same answers, {percent(after)} of them."
    low, high = (f"{100 * end:+.0f}" for end in found.interval)
    number = f"{percent(after)} against {percent(before)} ({low} to {high} points)"
    if found.interval[0] <= 0 <= found.interval[1]:
        return f"`{other}` and `{first}` are not told apart by their right answers: {number}."
    way = "more" if found.value > 0 else "fewer"
    return f"`{other}` has {way} right answers than `{first}`: {number}."


def _pairing(first: Findings, other: Findings, difference: Difference) -> str:
    count = difference.pairing.left.size
    if not difference.pairing.by:
        return (
            f"`{other.label}` against `{first.label}`: no questions in common are known of, so the "
            "files are compared as two samples, with wider intervals."
        )
    sizes = [sum(label is not None for label in one.answers.correct) for one in (first, other)]
    return (
        f"`{other.label}` against `{first.label}`: paired by {difference.pairing.by}, over the "
        f"{count} labelled answers to the same questions (of {sizes[0]} in the one and {sizes[1]} "
        "in the other)."
    )


def _methods(other: Findings, first: Findings, difference: Difference) -> str:
    """Which methods tell wrong answers from right ones better in one of the files."""
    clear = {
        name: figure
        for name, figure in difference.auroc.items()
        if figure.interval and not figure.interval[0] <= 0 <= figure.interval[1]
    }
    if not difference.auroc:
        return ""
    if not clear:
        return f"No method's AUROC is clearly another in `{other.label}` than in `{first.label}`."
    better = [f"`{name}`" for name, figure in clear.items() if (figure.value or 0) > 0]
    worse = [f"`{name}`" for name, figure in clear.items() if (figure.value or 0) < 0]
    parts = [f"higher for {', '.join(better)}"] if better else []
    parts += [f"lower for {', '.join(worse)}"] if worse else []
    return (
        f"AUROC in `{other.label}` is {' and '.join(parts)} than in `{first.label}`; of "
        f"{len(difference.auroc)} methods, one in twenty would seem so by chance."
    )


def comparison_rows(comparison: Compared) -> list[tuple[str, ...]]:
    """The table: a head, and a row a method."""
    labels = [file.label for file in comparison.files]
    rows = [("method", *labels, *(f"{other} - {labels[0]}" for other in labels[1:]))]
    for name in comparison.names:
        figures = [NONE if one is None else figure_text(one) for one in comparison.figures(name)]
        rows.append((name, *figures, *(_signed(one, name) for one in comparison.differences)))
    return rows


def _signed(difference: Difference, name: str) -> str:
    figure = difference.auroc.get(name)
    if figure is None or figure.value is None:
        return NONE
    text = f"{figure.value:+.3f}"
    return (
        text if figure.interval is None else text + " [{:+.3f}, {:+.3f}]".format(*figure.interval)
    )
