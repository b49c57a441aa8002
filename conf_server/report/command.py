"""`conf-server report`: reads answers, computes figures, prints a table and writes a page."""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Final

from conf_server.report.answers import Answers, read_answers
from conf_server.report.evaluation_metrics import RESAMPLES
from conf_server.report.figures import MethodFigures, correlations, method_figures
from conf_server.report.json_lines import STANDARD_INPUT, ReportError
from conf_server.report.labels_file import read_labels_file
from conf_server.report.page import EXPLANATION, page
from conf_server.report.plots import (
    SIZE,
    Draw,
    correlation_map,
    distribution,
    has_distribution,
    map_size,
    png,
    reliability_diagram,
    risk_coverage_curve,
    svg,
)
from conf_server.report.table import as_text, notes
from conf_server.standard_output import print_result
from conf_server.terminal import readable, say
from conf_server.uncertainty.registry import MethodError, load_entry_points

NO_PLOTS: Final = "No plots: matplotlib is not installed (pip install 'conf-server[report]')."


def main(arguments: Sequence[str]) -> int:
    """Run the command.

    Returns:
        0 for a report, 2 for bad usage or for a file that is not what it should be.
    """
    options = _parser().parse_args(arguments)
    try:
        _report(options)
    except ReportError as error:
        say(f"conf-server report: error: {error}")
        return 2
    except OSError as error:
        say(f"conf-server report: error: {error.filename}: {error.strerror}")
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="conf-server report",
        description="How well does each uncertainty tell right answers from wrong ones? Reads an "
        "output of `conf-server uncertainty` or `conf-server score`, prints a table and writes a "
        "page with plots.",
        allow_abbrev=False,
    )
    parser.add_argument("input", metavar="FILE", help="JSON lines, .gz or not; - is stdin.")
    parser.add_argument(
        "-o", "--output", metavar="FILE", default="report.html", help="Default: report.html."
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
        choices=("exact", "contains"),
        default="exact",
        help="When an answer agrees with its reference: docs/batch.md has the rules.",
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
    try:
        load_entry_points()
    except MethodError as error:
        raise ReportError(str(error)) from error
    _check(options)
    try:
        load_entry_points()
    except MethodError as error:
        raise ReportError(str(error)) from error
    labels_file = read_labels_file(options.labels) if options.labels else None
    answers = read_answers(options.input, options.match, labels_file)
    if not answers.columns:
        failed = f" ({answers.failed} failed lines)" if answers.failed else ""
        raise ReportError(f"{options.input}: no estimates in it{failed}")
    if labels_file and not labels_file.used:
        raise ReportError(f"--labels {options.labels}: no label of an answer in {options.input}")
    methods = method_figures(answers, options.seed, progress=options.progress)
    remarks = [*notes(answers, methods, options.match, labels_file), *_plot_notes(methods)]
    _write_page(options, answers, methods, remarks)
    print_result(readable(f"{as_text(methods, remarks)}\n\n{options.output}"))


def _check(options: argparse.Namespace) -> None:
    if options.png is not None and not _can_draw():
        raise ReportError(f"--png: {NO_PLOTS[len('No plots: ') :]}")
    for name, path in (("it is the input", options.input), ("it has the labels", options.labels)):
        if path and _same_file(path, options.output):
            raise ReportError(f"-o {options.output}: {name}")
    if options.input == options.labels == STANDARD_INPUT:
        raise ReportError("--labels -: standard input has the answers")


def _can_draw() -> bool:
    return importlib.util.find_spec("matplotlib") is not None


def _plot_notes(methods: Sequence[MethodFigures]) -> list[str]:
    """Why there are plots missing."""
    if not _can_draw():
        return [NO_PLOTS]
    names = [one.name for one in methods if one.values.size and not has_distribution(one)]
    return [f"No distribution: values too large to be drawn ({', '.join(names)})."] if names else []


def _write_page(
    options: argparse.Namespace,
    answers: Answers,
    methods: Sequence[MethodFigures],
    remarks: Sequence[str],
) -> None:
    """Write the page, and the plots one by one where they are asked for."""
    drawings: dict[str, dict[str, Draw]] = {}
    heat_map = None
    names, values = correlations(answers)
    if _can_draw():
        drawings = {method.name: _drawings(method) for method in methods}
        heat_map = correlation_map(names, values) if len(names) > 1 else None
    if options.png is not None:
        _write_pngs(options.png, drawings, heat_map, len(names))
    text = page(
        options.title or f"Uncertainty: {Path(options.input).name}",
        [*remarks, f"Model: {', '.join(sorted(answers.models))}."],
        methods,
        {name: _svgs(name, figures) for name, figures in drawings.items()},
        heat_map and svg(heat_map, "rank correlations", map_size(len(names))),
        EXPLANATION.format(seed=options.seed, resamples=RESAMPLES),
    )
    Path(options.output).write_text(text, encoding="utf-8")


def _same_file(left: str, right: str) -> bool:
    return os.path.exists(left) and os.path.exists(right) and os.path.samefile(left, right)


def _drawings(method: MethodFigures) -> dict[str, Draw]:
    """The plots of a method by their captions, those that can be drawn."""
    found: dict[str, Draw] = {}
    if has_distribution(method):
        found["distribution"] = distribution(method)
    if method.labelled:
        found["risk-coverage"] = risk_coverage_curve(method)
    if method.reliability is not None:
        found["reliability"] = reliability_diagram(method)
    return found


def _svgs(name: str, drawings: dict[str, Draw]) -> dict[str, str]:
    return {
        caption: svg(draw, escape(f"{caption} of {name}")) for caption, draw in drawings.items()
    }


def _write_pngs(
    folder: Path, drawings: dict[str, dict[str, Draw]], heat_map: Draw | None, count: int
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, figures in drawings.items():
        for caption, draw in figures.items():
            png(draw, folder / f"{re.sub(r'[^A-Za-z0-9_.-]', '_', name)}_{caption}.png", SIZE)
    if heat_map is not None:
        png(heat_map, folder / "correlations.png", map_size(count))
