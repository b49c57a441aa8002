"""What the settings of `evaluation.thinking` have come to, as a table and as a plot.

All settings have the same questions, and traces of the same number the same seed. Intervals are of
95 %, by a bootstrap over questions that draws the same ones in every setting.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from conf_server.report.drawing import SERIES, Plot
from conf_server.report.evaluation_metrics import Levels, auroc
from conf_server.report.outputs import read_output
from conf_server.report.recorded_traces import Question, question_behind
from conf_server.report.resampling import bootstrap_means, percentile_interval
from conf_server.report.think_plots import accuracy_against_tokens
from conf_server.report.vote_curves import MAJORITY, vote_curves, voters
from conf_server.thinking.votes import hold_vote

Floats = NDArray[np.float64]

SEED: Final = 0
"""Of the bootstrap."""

DRAWN: Final = (MAJORITY, "min_window_weighted")
"""Votes whose accuracy against tokens has a line in the plot."""

GREEDY: Final = "greedy"
"""The setting that does not sample. The others are held against it, where it is there."""

HEAD: Final = (
    *("setting", "vote", "right", "tokens", "less the majority of all", "less `greedy`"),
    *("majority of as many tokens", "less that", "traces"),
)


class UnpairedError(ValueError):
    """The files do not answer the same questions."""


@dataclass(frozen=True)
class Setting:
    """A file of `conf-server think`.

    Attributes:
        name: of the setting.
        questions: in the order of the input's lines.
        vote: the one that has decided.
        right: (n,) whether its winner is the right answer, 1 or 0.
        tokens: (n,) of all traces of each question.
    """

    name: str
    questions: tuple[Question, ...]
    vote: str
    right: Floats
    tokens: Floats


def read_settings(files: Mapping[str, Path]) -> list[Setting]:
    """The files by the names of their settings.

    Raises:
        ReportError: a file is no output of `conf-server think`.
        UnpairedError: one has answers to other lines than the first.
    """
    found, lines = [], None
    for name, path in files.items():
        setting, own = _read(name, path)
        if own != (lines := lines or own) or not own:
            raise UnpairedError(f"{path} has answers to other lines than the first file")
        found.append(setting)
    return found


def _read(name: str, path: Path) -> tuple[Setting, list[int]]:
    """A setting, and the lines of the input that it answers."""
    answers = read_output(str(path))
    lines, questions, votes, right = [], [], "", []
    for place in sorted(answers.thinking, key=lambda place: answers.answers[place].line):
        thinking, answer = answers.thinking[place], answers.answers[place]
        question = question_behind(thinking, answer.label, "exact")
        if question is None:
            raise UnpairedError(f"{path}: line {answer.line} has no traces or no reference")
        votes, winner = next(iter(thinking.votes.items()))
        lines.append(answer.line)
        questions.append(question)
        right.append(question.is_right(winner))
    tokens = [_tokens(one, len(one.traces)) for one in questions]
    setting = Setting(name, tuple(questions), votes, np.array(right, float), np.array(tokens))
    return setting, lines


def _tokens(question: Question, budget: int) -> float:
    return float(sum(trace.scores.num_tokens for trace in question.traces[:budget]))


def majority_of(everything: Setting, budget: int) -> tuple[Floats, Floats]:
    """(n,) whether the majority of the first traces of each question is right, and their tokens."""
    right = []
    for question in everything.questions:
        result = hold_vote(MAJORITY, voters(question.traces[:budget]))
        right.append(result is not None and question.is_right(result.winner))
    tokens = [_tokens(one, budget) for one in everything.questions]
    return np.array(right, float), np.array(tokens)


def as_cheap(everything: Setting, tokens: float) -> int:
    """Of how many traces a majority has as many tokens a question, on average, or just fewer; 1 at
    least.
    """
    most = max(len(one.traces) for one in everything.questions)
    means = [majority_of(everything, budget)[1].mean() for budget in range(1, most + 1)]
    return max(1, int(np.searchsorted(means, tokens, side="right")))


def rows(settings: Sequence[Setting]) -> Iterator[tuple[str, ...]]:
    """A row for each setting, by `HEAD`; the first setting is the one that ends nothing early."""
    everything = settings[0]
    most = max(len(one.traces) for one in everything.questions)
    of_all, _ = majority_of(everything, most)
    greedy = next((one.right for one in settings if one.name == GREEDY), None)
    for one in settings:
        budget = as_cheap(everything, one.tokens.mean())
        equal, _ = majority_of(everything, budget)
        yield (
            f"`{one.name}`",
            f"`{one.vote}`",
            _share(one.right),
            _mean(one.tokens),
            _difference(one.right - of_all),
            "" if greedy is None else _difference(one.right - greedy),
            f"{_share(equal)} of {budget}",
            _difference(one.right - equal),
            _statuses(one),
        )


def _interval(values: Floats) -> tuple[float, float]:
    found = percentile_interval(bootstrap_means(values, seed=SEED))
    assert found is not None  # A mean is always defined.
    return found


def _share(right: Floats) -> str:
    low, high = _interval(right)
    return f"{100 * right.mean():.1f} % [{100 * low:.1f}, {100 * high:.1f}]"


def _mean(tokens: Floats) -> str:
    low, high = _interval(tokens)
    return f"{tokens.mean():.0f} [{low:.0f}, {high:.0f}]"


def _difference(points: Floats) -> str:
    if not points.any():
        return "0"
    low, high = _interval(points)
    return f"{100 * points.mean():+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"


def _statuses(setting: Setting) -> str:
    counts = Counter(trace.status for one in setting.questions for trace in one.traces)
    return ", ".join(f"{count:,} {status}" for status, count in counts.most_common())


def told_apart(everything: Setting) -> Floats:
    """(m,) how well `min_conf` tells the right traces of a question from its other ones: AUROC by
    question, of those that have both. 1 is perfect, 0.5 is chance.
    """
    found = []
    for question in everything.questions:
        known = [one for one in question.traces if one.scores.min_conf is not None]
        wrong = np.array([not question.is_right(one.group) for one in known])
        if wrong.any() and not wrong.all():
            confidence = np.array([one.scores.min_conf for one in known], np.float64)
            found.append(auroc(Levels.of(-confidence, wrong)))
    return np.array(found)


def separation(everything: Setting) -> str:
    """The same in words."""
    found = told_apart(everything)
    if not found.size:
        return "No question has both right and wrong traces."
    low, high = _interval(found)
    return (
        f"`min_conf` tells right traces from wrong ones of the same question: AUROC "
        f"{found.mean():.3f} [{low:.3f}, {high:.3f}], the mean of {found.size} questions."
    )


def markdown(settings: Sequence[Setting]) -> str:
    """The table."""
    lines = [HEAD, tuple("---" for _ in HEAD), *rows(settings)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def tokens_plot(settings: Sequence[Setting]) -> Plot:
    """Accuracy against tokens: a line for each of two votes over the first traces of the setting
    that ends nothing early, and a point for each other setting.
    """
    everything, *others = settings
    assert len(others) <= len(SERIES)
    curves = vote_curves(everything.questions, SEED)
    assert curves is not None  # Every file has questions.
    drawn = [curve for name in DRAWN if (curve := curves.of(name)) is not None]
    lines = accuracy_against_tokens(curves, drawn)

    def draw(axes: Any) -> None:
        lines.draw(axes)
        for one, (colour, _, marker) in zip(others, SERIES, strict=False):
            x, y = one.tokens.mean(), one.right.mean()
            low, high = _interval(one.right)
            style = {"color": colour, "marker": marker, "markerfacecolor": "white", "alpha": 0.9}
            error = {"yerr": [[y - low], [high - y]], "elinewidth": 0.7, "capsize": 2}
            axes.errorbar([x], [y], linestyle="none", label=one.name, **error, **style)
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderpad=0)

    return Plot(
        draw,
        f"{lines.caption}; hollow: the other settings, with their intervals",
        "accuracy against tokens, of votes over the first traces and of settings that end some",
        (6.4, 4.4),
    )
