"""What came out, in words: which method ranks best, what that is worth, and how sure that is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from conf_server.report.answers import Answers
from conf_server.report.figures import KEPT, Figure, MethodFigures
from conf_server.report.standing import Standing, is_inverted

MOST_NAMED: Final = 4
"""Methods that a sentence names; more are counted."""


@dataclass(frozen=True)
class Headline:
    """The first thing that a reader sees. Names of methods stand between backticks.

    Attributes:
        claim: one sentence or two.
        caveats: what limits the claim, a sentence each.
    """

    claim: str
    caveats: tuple[str, ...] = ()


def headline(answers: Answers, standing: Standing) -> Headline:
    """What the answers of one file show.

    Args:
        answers: judged.
    """
    labels = [one for one in answers.correct if one is not None]
    if not labels:
        return Headline(
            f"{len(answers)} answers, none with a label: nothing says which method is right.",
            ("Give `correct` or `reference` in the lines, or labels with --labels.",),
        )
    if len(set(labels)) == 1:
        which = "right" if labels[0] else "wrong"
        return Headline(
            f"All {len(labels)} labelled answers are {which}: there is nothing to tell apart.",
            ("A ranking needs right and wrong answers.",),
        )
    best = standing.best
    if best is None:
        return Headline("No method tells any two of the labelled answers apart.")
    if not standing.beats_chance:
        return _no_better_than_chance(standing, best)
    return Headline(f"{_rank(standing, best)} {_worth(best)}", tuple(_caveats(standing, best)))


def _rank(standing: Standing, best: MethodFigures) -> str:
    number = f"(AUROC {_with_interval(best.auroc)})"
    twins = standing.twins.get(best.name, ())
    names, ending = _names([best, *twins]), "" if twins else "s"
    if len(standing.ranked) == 1:
        return f"{names} tell{ending} wrong answers from right ones {number}."
    if standing.level_with_best:
        return f"{names} rank{ending} first, but not clearly {number}."
    return f"{names} rank{ending} best {number}."


def _worth(best: MethodFigures) -> str:
    """What keeping the surest answers does to the share of errors."""
    before, after = best.wrong_share, best.risk.value
    assert after is not None
    kept = f"the surest {percent(KEPT)}"
    if percent(before) == percent(after) or after > before:
        return f"Keeping {kept} leaves errors at {_share(best.risk)}, {percent(before)} before."
    return f"Keeping {kept} cuts errors from {percent(before)} to {_share(best.risk)}."


def _caveats(standing: Standing, best: MethodFigures) -> list[str]:
    found = []
    if level := standing.level_with_best:
        found.append(f"Not clearly worse on these answers: {_names(level)}.")
    if len(standing.ranked) > 1:
        found.append(
            f"The best of {len(standing.ranked)} on the answers that it was chosen on looks better "
            "than it is: choose here, and measure on others."
        )
    if best.auroc.interval and best.auroc.interval[0] == best.auroc.interval[1]:
        found.append(
            "The interval has no width because every resample of a perfect order is perfect; with "
            f"{best.labelled} answers that says little."
        )
    return found


def _no_better_than_chance(standing: Standing, best: MethodFigures) -> Headline:
    which = f"best of {len(standing.ranked)}, " if len(standing.ranked) > 1 else ""
    names = _names([best, *standing.twins.get(best.name, ())])
    claim = (
        "No method is shown to tell wrong answers from right ones. "
        f"The {which}{names}, has AUROC {_with_interval(best.auroc)}; 0.5 is chance."
        if which
        else f"{names} is not shown to tell wrong answers from right ones: AUROC "
        f"{_with_interval(best.auroc)}; 0.5 is chance."
    )
    found = [
        f"{int(best.levels.wrong.sum())} wrong and {int(best.levels.right.sum())} right answers: "
        "more of the rarer kind would narrow the interval."
    ]
    interval = best.auroc.interval
    if interval and interval[0] > 0.5 and standing.chance is not None:
        found.insert(
            0,
            "Its own interval lies above 0.5, but with shuffled labels the best of "
            f"{len(standing.ranked)} does as well in {percent(standing.chance)} of cases.",
        )
    if turned := [one for one in standing.ranked if is_inverted(one)]:
        verb = "rank" if len(turned) > 1 else "ranks"
        found.append(
            f"{_names(turned)} {verb} the wrong way round: higher values are more often right."
        )
    return Headline(claim, tuple(found))


def _names(methods: Sequence[MethodFigures]) -> str:
    """`a`, `b` and `c`; of many the first few and how many more."""
    names = [f"`{one.name}`" for one in methods]
    if len(names) > MOST_NAMED + 1:
        return f"{', '.join(names[:MOST_NAMED])} and {len(names) - MOST_NAMED} more"
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _with_interval(figure: Figure) -> str:
    text = f"{figure.value:.2f}"
    if figure.interval is None:
        return f"{text}, no interval"
    return f"{text}, {figure.interval[0]:.2f} to {figure.interval[1]:.2f}"


def _share(figure: Figure) -> str:
    assert figure.value is not None
    text = percent(figure.value)
    if figure.interval is None:
        return text
    low, high = (f"{100 * end:.0f}" for end in figure.interval)
    return f"{text} ({low} to {high} %)"


def percent(share: float) -> str:
    """A share in whole percents."""
    return f"{100 * share:.0f} %"
