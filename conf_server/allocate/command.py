"""`conf-server allocate`: reads answers, gives a budget away, and writes what to ask next."""

from __future__ import annotations

import argparse
import gzip
import json
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from tqdm import tqdm  # type: ignore[import-untyped]

from conf_server.allocate.sampled_answers import SampledQuestion, read_answers
from conf_server.command_parser import CommandParser
from conf_server.report.json_lines import STANDARD_INPUT, ReportError
from conf_server.report.questions import read_questions
from conf_server.standard_output import print_result
from conf_server.terminal import say
from conf_server.thinking.allocation import allocate


def main(arguments: Sequence[str]) -> int:
    """Run the command.

    Returns:
        0, or 2 for bad usage or a file that is not what it should be.
    """
    options = make_parser().parse_args(list(arguments))
    try:
        _allocate(options)
    except ReportError as error:
        say(f"conf-server allocate: error: {error}")
        return 2
    except OSError as error:
        say(f"conf-server allocate: error: {error.filename}: {error.strerror}")
        return 2
    return 0


def make_parser() -> argparse.ArgumentParser:
    """That of the command."""
    parser = CommandParser(
        prog="conf-server allocate",
        description="How many further samples should each question get, so that most votes come "
        "out right? Gives a budget away by the optimistic knowledge gradient (arXiv 1403.3080) and "
        "writes one line for each question that gets samples: the request for them, where a file "
        "has the question, or its `id` and how many. Docs: docs/batch.md.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "inputs",
        metavar="IN",
        nargs="+",
        help="Outputs of `conf-server think` or `uncertainty`, or lines with `answers`; JSON "
        "lines, .gz or not; - is stdin. Of several, lines with one `id` count together.",
    )
    parser.add_argument(
        "--budget", metavar="N", type=_at_least(1), required=True, help="Samples to give away."
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="OUT",
        default=STANDARD_INPUT,
        help="JSON lines, .gz or not. Default: -, which is stdout.",
    )
    parser.add_argument(
        "--questions",
        metavar="FILE",
        help="The input of the run that has written IN, where that does not repeat the questions.",
    )
    parser.add_argument(
        "--num-answers",
        metavar="M",
        type=_at_least(2),
        help="Different answers that a question is taken to have. Default: those in IN, and one "
        "more.",
    )
    parser.add_argument(
        "--progress",
        action=argparse.BooleanOptionalAction,
        help="Show a bar on stderr. Default: where stderr is a terminal.",
    )
    return parser


def _at_least(least: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not (text.isascii() and text.isdecimal()) or int(text) < least:
            raise argparse.ArgumentTypeError(
                f"must be a whole number of at least {least}, got {text!r}"
            )
        return int(text)

    return number


def _allocate(options: argparse.Namespace) -> None:
    _check(options)
    asked = read_questions(options.questions) if options.questions else None
    answers = read_answers(options.inputs, asked)
    questions = list(answers.questions.values())
    show = None if options.progress is None else not options.progress
    with tqdm(total=options.budget, desc="Allocating", unit=" samples", disable=show) as bar:
        tallies = [question.tally for question in questions]
        given = allocate(tallies, options.budget, options.num_answers, bar.update)
    _write(options.output, _lines(questions, given))
    failed = f" ({answers.failed} failed lines left out)" if answers.failed else ""
    say(
        f"conf-server allocate: {options.budget} samples for {sum(map(bool, given))} of "
        f"{len(questions)} questions{failed}: {options.output}"
    )


def _check(options: argparse.Namespace) -> None:
    if [*options.inputs, options.questions].count(STANDARD_INPUT) > 1:
        raise ReportError("-: standard input can be read once")


def _lines(questions: Sequence[SampledQuestion], given: Sequence[int]) -> Iterable[dict[str, Any]]:
    for question, samples in zip(questions, given, strict=True):
        if samples:
            yield question.further(samples)


def _write(path: str, lines: Iterable[dict[str, Any]]) -> None:
    """Write all lines or none: what was there stays until the new file is whole."""
    texts = [json.dumps(line) for line in lines]
    if path == STANDARD_INPUT:
        print_result("\n".join(texts))
        return
    content = "".join(f"{text}\n" for text in texts).encode()
    target = os.path.realpath(path)
    folder, name = os.path.split(target)
    draft = os.path.join(folder, f".{name}.{os.getpid()}")
    try:
        with open(draft, "xb") as file:
            file.write(gzip.compress(content) if path.endswith(".gz") else content)
        if os.path.exists(target):
            shutil.copymode(target, draft)
        os.replace(draft, target)
    except OSError as error:
        raise ReportError(f"-o {path}: {error.strerror}") from error
    finally:
        if os.path.exists(draft):
            os.unlink(draft)
