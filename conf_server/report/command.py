"""`conf-server report`: reads answers, computes figures, prints a table and writes a page."""

from __future__ import annotations

import argparse
import importlib.util
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from conf_server.command_parser import CommandParser
from conf_server.report.comparison import labels_of_files
from conf_server.report.findings import Findings, findings_of
from conf_server.report.json_lines import STANDARD_INPUT, ReportError
from conf_server.report.labels_file import read_labels_file
from conf_server.report.made_with import made_with
from conf_server.report.match_choice import choose_match
from conf_server.report.outputs import read_output
from conf_server.report.page import EXPLANATION, page
from conf_server.report.plots import has_distribution
from conf_server.report.png_files import write_pngs
from conf_server.report.printed import printed
from conf_server.report.questions import read_questions
from conf_server.report.remarks import match_remark
from conf_server.report.resampling import RESAMPLES
from conf_server.report.side_by_side import Compared, compared, comparison_headline
from conf_server.standard_output import print_result
from conf_server.terminal import readable, say
from conf_server.uncertainty.registry import MethodError, load_entry_points

NO_PLOTS: Final = "No plots: matplotlib is not installed (pip install 'conf-server[report]')."


def main(arguments: Sequence[str]) -> int:
    """Run the command.

    Returns:
        0 for a report, 2 for bad usage or for a file that is not what it should be.
    """
    options = make_parser().parse_args(arguments)
    try:
        _report(options)
    except ReportError as error:
        say(f"conf-server report: error: {error}")
        return 2
    except OSError as error:
        say(f"conf-server report: error: {error.filename}: {error.strerror}")
        return 2
    return 0


def make_parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="conf-server report",
        description="How well does each uncertainty tell right answers from wrong ones? Reads an "
        "output of `conf-server uncertainty`, `score` or `think`, prints a table and writes a page "
        "with plots. Of `think` it shows accuracy against tokens, and what early stopping costs. "
        "Of several files it compares the methods.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "inputs", metavar="FILE", nargs="+", help="JSON lines, .gz or not; - is stdin."
    )
    parser.add_argument(
        "-o", "--output", metavar="FILE", default="report.html", help="Default: report.html."
    )
    parser.add_argument(
        "--questions",
        metavar="FILE",
        help="The input of the run: the page then shows what was asked, and its settings.",
    )
    parser.add_argument(
        "--labels",
        metavar="FILE",
        help="Labels in place of those in the lines: JSON lines with `correct` or `reference`, and "
        "`line` or `id` to say of which answer; or the input of the run with its labels mended.",
    )
    parser.add_argument("--png", metavar="FOLDER", type=Path, help="Write the plots there too.")
    parser.add_argument("--title", help="Of the page. Default: names the input.")
    parser.add_argument(
        "--match",
        choices=("auto", "exact", "contains"),
        default="auto",
        help="When an answer agrees with its reference: docs/batch.md has the rules. "
        "Default: auto, which takes `contains` for long answers to short references, and says so.",
    )
    parser.add_argument(
        "--seed", metavar="N", type=int, default=0, help="Of the bootstrap. Default: 0."
    )
    parser.add_argument(
        "--progress",
        action=argparse.BooleanOptionalAction,
        help="Show a bar on stderr. Default: where stderr is a terminal.",
    )
    return parser


def _report(options: argparse.Namespace) -> None:
    _check(options)
    try:
        load_entry_points()
    except MethodError as error:
        raise ReportError(str(error)) from error
    files = _files(options)
    comparison = compared(files, options.seed) if len(files) > 1 else None
    if options.png is not None:
        write_pngs(options.png, files, comparison)
    _write_page(options, files, comparison)
    text = printed(files, comparison, _plot_notes(files))
    print_result(readable(f"{text}\n\n{options.output}"))


def _check(options: argparse.Namespace) -> None:
    if options.png is not None and not _can_draw():
        raise ReportError(f"--png: {NO_PLOTS[len('No plots: ') :]}")
    read = [("it is the input", path) for path in options.inputs]
    read += [("it has the labels", options.labels), ("it has the questions", options.questions)]
    for what, path in read:
        if path and _same_file(path, options.output):
            raise ReportError(f"-o {options.output}: {what}")
    if options.inputs.count(STANDARD_INPUT) > 1:
        raise ReportError("-: standard input can be read once")
    for flag in ("labels", "questions"):
        if STANDARD_INPUT in options.inputs and getattr(options, flag) == STANDARD_INPUT:
            raise ReportError(f"--{flag} -: standard input has the answers")
    if options.labels == options.questions == STANDARD_INPUT:
        raise ReportError("--questions -: standard input has the labels")


def _same_file(left: str, right: str) -> bool:
    return os.path.exists(left) and os.path.exists(right) and os.path.samefile(left, right)


def _can_draw() -> bool:
    return importlib.util.find_spec("matplotlib") is not None


def _files(options: argparse.Namespace) -> list[Findings]:
    """Read, judge and compute every file; of all of them, references are compared in one way."""
    labels = read_labels_file(options.labels) if options.labels else None
    questions = read_questions(options.questions) if options.questions else None
    own = [
        (labels and replace(labels, used={}), questions and replace(questions, used=0))
        for _ in options.inputs
    ]
    read = [read_output(path, *pair) for path, pair in zip(options.inputs, own, strict=True)]
    for answers, (labels_file, _) in zip(read, own, strict=True):
        if not answers.columns:
            failed = f" ({answers.failed} failed lines)" if answers.failed else ""
            raise ReportError(f"{answers.path}: no estimates in it{failed}")
        if labels_file and not labels_file.used:
            raise ReportError(f"--labels {options.labels}: no label of an answer in {answers.path}")
    choice = choose_match(options.match, (one for answers in read for one in answers.answers))
    if remark := match_remark(choice):
        say(f"conf-server report: {remark}")
    names = labels_of_files(options.inputs)
    found = [
        findings_of(name, answers, choice, options.seed, *pair, progress=options.progress)
        for name, answers, pair in zip(names, read, own, strict=True)
    ]
    for file in found:
        for warning in file.warnings:
            say(f"conf-server report: warning: {file.answers.path}: {warning}")
    return found


def _plot_notes(files: Sequence[Findings]) -> list[str]:
    """Why there are plots missing."""
    if not _can_draw():
        return [NO_PLOTS]
    methods = [one for file in files for one in file.methods]
    names = [one.name for one in methods if one.values.size and not has_distribution(one)]
    return [f"No distribution: values too large to be drawn ({', '.join(names)})."] if names else []


def _title(paths: Sequence[str], files: Sequence[Findings]) -> str:
    what = "Thinking" if all(file.thinking for file in files) else "Uncertainty"
    return f"{what}: {', '.join(Path(path).name for path in paths)}"


def _write_page(
    options: argparse.Namespace, files: Sequence[Findings], comparison: Compared | None
) -> None:
    notes = _plot_notes(files)
    shown = [replace(file, remarks=[*file.remarks, *notes]) for file in files]
    text = page(
        options.title or _title(options.inputs, files),
        shown,
        comparison,
        comparison_headline(comparison) if comparison else files[0].headline,
        EXPLANATION.format(seed=options.seed, resamples=RESAMPLES),
        made_with(options.seed),
        _can_draw(),
    )
    Path(options.output).write_text(text, encoding="utf-8")
