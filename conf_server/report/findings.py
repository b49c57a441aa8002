"""Everything that the report has to say of one file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from conf_server.report.answers import Answers
from conf_server.report.figures import MethodFigures, method_figures
from conf_server.report.headline import Headline, headline
from conf_server.report.labels_file import LabelsFile
from conf_server.report.match_choice import MatchChoice
from conf_server.report.questions import Questions
from conf_server.report.remarks import remarks, warnings
from conf_server.report.standing import Standing, standing_of
from conf_server.report.think_findings import ThinkFindings, think_findings, think_headline


@dataclass(frozen=True)
class Findings:
    """One file, computed and put into words.

    Attributes:
        label: what the report calls it: the file's name.
        answers: judged.
        methods: the figures of each, the best AUROC first.
        standing: the same, sorted out.
        choice: when an answer agrees with a reference.
        headline: what came out.
        warnings: what is likely a mistake.
        remarks: what the table leaves open; the first one counts the answers.
        thinking: what the traces of `conf-server think` show; None of any other file.
    """

    label: str
    answers: Answers
    methods: Sequence[MethodFigures]
    standing: Standing
    choice: MatchChoice
    headline: Headline
    warnings: Sequence[str]
    remarks: Sequence[str]
    thinking: ThinkFindings | None = None


def findings_of(
    label: str,
    answers: Answers,
    choice: MatchChoice,
    seed: int,
    labels_file: LabelsFile | None = None,
    questions: Questions | None = None,
    progress: bool | None = False,
) -> Findings:
    """Judge the answers of a file, and compute and say what they show.

    Args:
        label: as of `Findings`.
        answers: not judged yet.
        seed: of the bootstrap and of the shuffles.
        progress: as of `method_figures`.
    """
    answers.judge(choice.match)
    methods = method_figures(answers, seed, progress=progress)
    standing = standing_of(methods, answers.labels(), seed)
    thinking = think_findings(answers, choice, seed)
    of_methods = headline(answers, standing)
    return Findings(
        label=label,
        answers=answers,
        methods=methods,
        standing=standing,
        choice=choice,
        headline=think_headline(thinking, of_methods) if thinking else of_methods,
        warnings=warnings(answers, choice),
        remarks=remarks(answers, standing, choice, labels_file, questions),
        thinking=thinking,
    )
