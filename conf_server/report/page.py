"""The report as one HTML file: nothing to fetch, and of use without its few lines of script."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from conf_server.report.examples import examples_of
from conf_server.report.findings import Findings
from conf_server.report.headline import Headline
from conf_server.report.markup import anchor, bullets, facts, paragraphs, plain, text_of
from conf_server.report.overview_plots import correlation_map, forest, risk_coverage_chart
from conf_server.report.page_answers import two_lists
from conf_server.report.page_comparison import comparison_section
from conf_server.report.page_methods import method_sections
from conf_server.report.page_style import SCRIPT, STYLE
from conf_server.report.page_table import table
from conf_server.report.page_think import think_section
from conf_server.report.side_by_side import Compared
from conf_server.report.standing import is_at_chance

EXPLANATION: Final = """
AUROC: how well the uncertainty detects wrong answers; 1 is perfect, 0.5 is chance. PRR: prediction
rejection ratio; 1 rejects as an oracle does, 0 as chance does. Errors at 80 %: the share of wrong
answers among the surest 80 %. ECE: expected calibration error over
ten bins of equal width, only of methods that are probabilities by definition. In brackets: 95 %
percentile intervals of {resamples} bootstrap resamples, seed {seed}. Ties count by their
expectation. Methods whose higher values mean a surer model are turned around first. Of methods
that are no probabilities, the reliability diagram shows the percentile of confidence among these
answers, which says nothing of calibration. Intervals in a reliability diagram are Wilson's.
"""


def page(
    title: str,
    files: Sequence[Findings],
    comparison: Compared | None,
    top: Headline,
    explanation: str,
    made_with: Sequence[tuple[str, str]],
    has_plots: bool,
) -> str:
    """The whole file.

    Args:
        title: of the page.
        files: one, or several that are compared.
        comparison: of several files; None for one.
        top: what came out.
        explanation: what the figures mean.
        made_with: terms and facts about the report itself.
        has_plots: whether plots can be drawn.
    """
    prefixes = [f"file-{place}-" if comparison else "" for place in range(1, len(files) + 1)]
    anchors = [_anchors(*pair) for pair in zip(files, prefixes, strict=True)]
    parts: list[str] = []
    if comparison:
        parts += comparison_section(comparison, anchors, has_plots)
        for file, places, prefix in zip(files, anchors, prefixes, strict=True):
            parts.append(f'<details class="part"><summary>{plain(file.label)}</summary>')
            parts.append(f'<div class="body" id="{prefix}top">')
            parts += [f'<p class="claim">{text_of(file.headline.claim)}</p>']
            parts += [*_summary(file), *_sections(file, places, prefix, made_with, has_plots)]
            parts.append("</div></details>")
    else:
        parts += _sections(files[0], anchors[0], "", made_with, has_plots)
    return "\n".join(
        [
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{plain(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<header>",
            f'<h1>{plain(title)}</h1>\n<p class="claim">{text_of(top.claim)}</p>',
            *(paragraphs(top.caveats) if comparison else _summary(files[0])),
            *_navigation(files, prefixes, comparison is not None),
            "</header>\n<main>",
            *parts,
            '<details class="part"><summary>How to read this</summary>',
            f"<p>{text_of(' '.join(explanation.split()))}</p></details>",
            f"</main>\n<script>{SCRIPT}</script>\n</body>\n</html>\n",
        ]
    )


def _anchors(findings: Findings, prefix: str) -> dict[str, str]:
    return {
        one.name: anchor(one.name, number, prefix) for number, one in enumerate(findings.methods, 1)
    }


def _summary(findings: Findings) -> Iterator[str]:
    """What limits the headline, and what is likely a mistake."""
    yield from paragraphs(findings.headline.caveats)
    models = ", ".join(findings.answers.record.models)
    yield f'<p class="soft">{text_of(f"{findings.remarks[0]} Model: {models}.")}</p>'
    for warning in findings.warnings:
        yield f'<div class="warning" role="note"><p>{text_of(warning)}</p></div>'


def _navigation(
    files: Sequence[Findings], prefixes: Sequence[str], compares: bool
) -> Iterator[str]:
    yield "<nav>"
    if compares:
        yield '<a href="#comparison">side by side</a>'
        for file, prefix in zip(files, prefixes, strict=True):
            yield f'<a href="#{prefix}top">{plain(file.label)}</a>'
    else:
        votes = [("think", "accuracy against tokens")] if files[0].thinking else []
        for place, name in (
            *votes,
            *(("answers", "answers to look at"), ("table", "table")),
            *(("run", "what was run"), ("notes", "notes"), ("methods", "each method")),
        ):
            yield f'<a href="#{place}">{name}</a>'
    yield "</nav>"


def _sections(
    findings: Findings,
    anchors: Mapping[str, str],
    prefix: str,
    made_with: Sequence[tuple[str, str]],
    has_plots: bool,
) -> Iterator[str]:
    """All that is said of one file below its headline."""
    if findings.thinking is not None:
        yield from think_section(findings.thinking, prefix, has_plots)
        yield "<h2>Does agreement tell right answers from wrong ones?</h2>"
    if has_plots and findings.standing.ranked:
        yield '<div class="pair charts">'
        plots = forest(findings.standing), risk_coverage_chart(findings.standing)
        for name, plot in zip(("forest", "curves"), plots, strict=True):
            element = plot.svg(f"{prefix}plot-{name}")
            yield f"<figure>{element}<figcaption>{plain(plot.caption)}</figcaption></figure>"
        yield "</div>"
    yield from _answers(findings, anchors, prefix)
    yield f'<section id="{prefix}table"><h2>All methods</h2>'
    yield from table(findings, anchors)
    yield "</section>"
    shown = findings.standing.drawn
    if has_plots and len(shown) > 1:
        plot = correlation_map(shown)
        yield '<details class="part"><summary>Which methods rank alike</summary>'
        yield '<div class="body scroll">'
        yield f'<figure class="map" style="width:{_wide(plot.size)}rem">'
        yield f"{plot.svg(f'{prefix}plot-map')}<figcaption>{plain(plot.caption)}</figcaption>"
        yield "</figure></div></details>"
    yield f'<section id="{prefix}run"><h2>What was run</h2>'
    yield from facts([*findings.answers.record.facts(), *_own_facts(findings), *made_with])
    yield f'</section><section id="{prefix}notes"><h2>Notes</h2>'
    yield from bullets(findings.remarks[1:])
    yield f'</section><section id="{prefix}methods" class="methods"><h2>Each method</h2>'
    yield from method_sections(findings, anchors, has_plots)
    yield "</section>"


def _wide(size: tuple[float, float]) -> float:
    """The width in rem at which the letters of a plot can still be read."""
    return round(size[0] * 5.4, 1)


def _own_facts(findings: Findings) -> list[tuple[str, str]]:
    answers = findings.answers
    found = [("file", answers.path), ("answers", str(len(answers)))]
    if answers.matched:
        why = f" (--match auto: {findings.choice.why})" if findings.choice.why else ""
        found.append(("comparison with references", f"{findings.choice.match}{why}"))
    return found


def _answers(findings: Findings, anchors: Mapping[str, str], prefix: str) -> Iterator[str]:
    """The answers that the best method is most mistaken about, and where those of others are."""
    best = findings.standing.best
    if best is None:
        return
    yield f'<section id="{prefix}answers"><h2>Answers to look at</h2>'
    doubt = ", though it is not told from chance" if is_at_chance(best) else ""
    yield f"<p>Chosen by {text_of(f'`{best.name}`')}, the first of the table{doubt}."
    others = [one for one in findings.standing.ranked if one is not best]
    if others:
        links = ", ".join(f'<a href="#{anchors[one.name]}">{plain(one.name)}</a>' for one in others)
        yield f'<span class="others"> By others: {links}.</span>'
    yield "</p>"
    examples = examples_of(findings.answers, best)
    shown = (*examples.confident_wrong, *examples.unsure_right)
    if shown and not any(one.answer.question for one in shown):
        hint = (
            "The questions are not in the file: `--questions` with the input of the run adds them."
        )
        yield f'<p class="soft">{text_of(hint)}</p>'
    yield from two_lists(examples)
    yield "</section>"
