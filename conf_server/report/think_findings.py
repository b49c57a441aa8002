"""What a file of `conf-server think` shows beyond its answers: votes, tokens, early stopping."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from conf_server.report.answers import Answers
from conf_server.report.early_stop_cost import StopCosts, stop_costs
from conf_server.report.figures import Figure
from conf_server.report.headline import Headline, percent
from conf_server.report.match_choice import MatchChoice
from conf_server.report.recorded_traces import Question, Thinking, question_behind
from conf_server.report.table import NONE, figure_text
from conf_server.report.vote_curves import MAJORITY, VoteCurve, VoteCurves, vote_curves, voters
from conf_server.thinking.traces import STOPPED
from conf_server.thinking.votes import VOTES, hold_vote

LOW_SHARE: Final = 0.1
"""The `keep_top` that the headline tells the cost of: DeepConf's "low"."""


@dataclass(frozen=True)
class ThinkFindings:
    """The traces of a file, computed and put into words.

    Attributes:
        votes: names of the votes that the run has held, the deciding one first.
        curves: accuracy against tokens; None where no line has both traces and a reference.
        costs: what early stopping would have cost; None where nothing can be replayed.
        remarks: what was counted, and what is not known.
    """

    votes: tuple[str, ...]
    curves: VoteCurves | None
    costs: StopCosts | None
    remarks: tuple[str, ...]

    @property
    def deciding(self) -> VoteCurve | None:
        """The curve of the vote that has decided."""
        found = [self.curves.of(name) for name in self.votes] if self.curves else []
        return next(filter(None, found), None)

    @property
    def drawn(self) -> list[VoteCurve]:
        """Curves to look at: of the votes that the run has held, and of the majority."""
        names = dict.fromkeys((*self.votes, MAJORITY))
        found = [self.curves.of(name) for name in names] if self.curves else []
        return [one for one in found if one is not None]


def think_findings(answers: Answers, choice: MatchChoice, seed: int) -> ThinkFindings | None:
    """Compute and say what the traces of a file show; None where no line was thought about.

    Args:
        seed: of the bootstrap over questions.
    """
    if not answers.thinking:
        return None
    thinkings = list(answers.thinking.values())
    votes = tuple(dict.fromkeys(name for one in thinkings for name in one.votes))
    labelled = {
        place: question
        for place, one in answers.thinking.items()
        if (question := question_behind(one, answers.answers[place].label, choice.match))
    }
    questions = list(labelled.values())
    curves = vote_curves(questions, seed)
    costs = stop_costs(questions, _deciding(votes, curves), seed)
    return ThinkFindings(votes, curves, costs, tuple(_remarks(thinkings, questions, curves, votes)))


def _deciding(votes: Sequence[str], curves: VoteCurves | None) -> str:
    """The first vote of the run that can be held again; else the majority, which always can."""
    return next((name for name in votes if curves and curves.of(name)), MAJORITY)


def _remarks(
    thinkings: Sequence[Thinking],
    questions: Sequence[Question],
    curves: VoteCurves | None,
    votes: Sequence[str],
) -> Iterator[str]:
    traces = [trace for one in thinkings for trace in one.traces]
    states = Counter(trace.status for trace in traces)
    ends = Counter(one.stopped_by for one in thinkings)
    tokens = sum(trace.scores.num_tokens for trace in traces)
    yield (
        f"{len(traces)} traces of {len(thinkings)} questions, {tokens:,} tokens: "
        f"{_counts(states)}. Questions ended by: {_counts(ends)}."
    )
    if bare := sum(not one.traces for one in thinkings):
        yield (
            f'{bare} lines have no traces in them (`think.traces` was "none"): nothing can be said '
            "of tokens and votes there."
        )
    if missing := len(thinkings) - bare - len(questions):
        yield f"{missing} lines have no `reference`, and so no place in the curves."
    if stopped := states[STOPPED]:
        yield (
            f"{stopped} traces ({percent(stopped / len(traces))}) were stopped early in this run. "
            "What they would have answered is not known: they have no vote in the curves, and no "
            "part in what early stopping costs, which is of the complete traces alone."
        )
    if curves is not None and curves.silent:
        yield f"Votes that these traces have no scores for: {', '.join(curves.silent)}."
    if other := sum(_differs(one) for one in thinkings):
        yield (
            f"In {other} lines a recorded vote is not the one that is held again here over the "
            "same traces."
        )
    if unknown := [name for name in votes if name not in VOTES]:
        yield f"Votes that this version does not know: {', '.join(unknown)}."


def _counts(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.most_common()) or "nothing"


def _differs(thinking: Thinking) -> bool:
    """Whether a recorded vote has another winner than the same vote held again."""
    if not thinking.traces:
        return False
    ballots = voters(thinking.traces)
    for name, winner in thinking.votes.items():
        if name in VOTES:
            result = hold_vote(name, ballots)
            if (None if result is None else result.winner) != winner:
                return True
    return False


def think_headline(found: ThinkFindings, of_methods: Headline) -> Headline:
    """What came out of the votes, before what the methods say.

    Args:
        of_methods: the headline of a file without traces.
    """
    curves, deciding = found.curves, found.deciding
    if curves is None or deciding is None:
        return of_methods
    last, first = deciding.accuracy[-1], deciding.accuracy[0]
    claim = (
        f"`{deciding.name}` over {curves.budgets[-1]} traces is right on {_share(last)} of "
        f"{curves.num_questions} questions, with {_thousands(curves.tokens[-1])} tokens each; "
        f"the first trace alone on {_share(first)}, with {_thousands(curves.tokens[0])}."
    )
    caveats = [*filter(None, [_against_majority(deciding), _cost(found.costs)])]
    return Headline(claim, (*caveats, of_methods.claim, *of_methods.caveats))


def _against_majority(curve: VoteCurve) -> str:
    difference = curve.against_majority
    if difference is None or difference.value is None or difference.interval is None:
        return ""
    low, high = difference.interval
    number = f"{100 * difference.value:+.0f} points ({100 * low:+.0f} to {100 * high:+.0f})"
    if low <= 0 <= high:
        return f"It is not told apart from the plain majority of the same traces: {number}."
    way = "more" if difference.value > 0 else "less"
    return f"It is right {way} often than the plain majority of the same traces: {number}."


def _cost(costs: StopCosts | None) -> str:
    if costs is None:
        return ""
    one = next(cost for cost in costs.costs if cost.keep_top == LOW_SHARE)
    return (
        f"Early stopping at `keep_top` {LOW_SHARE} would drop {_share(one.right_dropped)} of the "
        f"complete traces with a right answer and {_share(one.wrong_dropped)} of the others. Of "
        f"{costs.num_questions} questions, `{costs.vote}` would then answer {one.lost} wrongly "
        f"that all traces answer rightly, and {one.won} the other way round."
    )


def _share(figure: Figure) -> str:
    if figure.value is None:
        return NONE
    if figure.interval is None:
        return percent(figure.value)
    low, high = (f"{100 * end:.0f}" for end in figure.interval)
    return f"{percent(figure.value)} ({low} to {high} %)"


def _thousands(tokens: float) -> str:
    return f"{tokens:,.0f}"


def vote_rows(found: ThinkFindings) -> list[tuple[str, ...]]:
    """Accuracy by vote and number of traces: a head, a row of tokens, and a row a vote."""
    curves = found.curves
    if curves is None:
        return []
    head = ("traces", *map(str, curves.budgets), f"less {MAJORITY}")
    tokens = ("tokens a question", *map(_thousands, curves.tokens), "")
    return [head, tokens, *(_vote_row(one) for one in curves.curves)]


def _vote_row(curve: VoteCurve) -> tuple[str, ...]:
    early = (f"{one.value:.3f}" for one in curve.accuracy[:-1])
    difference = curve.against_majority
    text = "" if difference is None else _signed(difference)
    return (curve.name, *early, figure_text(curve.accuracy[-1]), text)


def _signed(figure: Figure) -> str:
    if figure.value is None or figure.interval is None:
        return NONE
    return "{:+.3f} [{:+.3f}, {:+.3f}]".format(figure.value, *figure.interval)


def cost_rows(found: ThinkFindings) -> list[tuple[str, ...]]:
    """What each threshold would have cost: a head, and a row for each share that is kept."""
    costs = found.costs
    if costs is None:
        return []
    head = ("keep_top", "right dropped", "wrong dropped", "right answers", "lost", "found")
    return [
        head,
        ("no threshold", NONE, NONE, figure_text(costs.accuracy), NONE, NONE),
        *(
            (
                str(one.keep_top),
                *map(figure_text, (one.right_dropped, one.wrong_dropped, one.accuracy)),
                *map(str, (one.lost, one.won)),
            )
            for one in costs.costs
        ),
    ]
