"""Flags that fill in an object of every request, such as `uncertainty`, where a line has not."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, get_args

from conf_server.batch.flag_values import above_zero, finite, names, positive, share
from conf_server.nearest import did_you_mean
from conf_server.thinking.answer_extraction import EXTRACTS
from conf_server.thinking.answer_groups import EQUALS
from conf_server.thinking.consensus import RULES
from conf_server.thinking.think_plan import Calibrate
from conf_server.thinking.votes import VOTES


@dataclass(frozen=True)
class RequestFlag:
    """A flag, and the field of the object that it fills in.

    Attributes:
        flag: as the command line has it.
        place: the name of the field; below an object, the names on the way to it.
        metavar: what stands for its value in the help.
        help: what it says, a sentence.
        type: makes the value of a word.
        choices: all words that it takes; empty where it takes any.
        only_with: another flag and the value without which this one means nothing.
    """

    flag: str
    place: tuple[str, ...]
    metavar: str
    help: str
    type: Callable[[str], Any] = str
    choices: Sequence[str] = ()
    only_with: tuple[str, str] | None = None

    def value_in(self, given: argparse.Namespace) -> Any:
        """Its value among parsed words; None where it is not there."""
        return getattr(given, self.flag.removeprefix("--").replace("-", "_"))


def _votes(text: str) -> list[str]:
    """Names of votes parted by commas."""
    found = names(text)
    for name in found:
        if name not in VOTES:
            hint = did_you_mean(name, VOTES)
            raise argparse.ArgumentTypeError(f"there is no vote {name!r}{hint}")
    return found


UNCERTAINTY_FLAGS: Final = (
    RequestFlag("--methods", ("methods",), "A,B", "Methods, parted by commas.", names),
    RequestFlag("--n-samples", ("n_samples",), "N", "Answers to sample.", positive),
    RequestFlag("--similarity", ("similarity",), "NAME", "How answers are compared."),
    RequestFlag("--temperature", ("temperature",), "T", "Of the sampled answers.", above_zero),
)

THINK_FLAGS: Final = (
    RequestFlag("--budget", ("budget",), "N", "Traces in all.", positive),
    RequestFlag(
        "--traces-at-once", ("concurrency",), "N", "Traces of one line at a time.", positive
    ),
    RequestFlag(
        "--calibrate",
        ("calibrate",),
        "HOW",
        "Where the threshold comes from.",
        choices=get_args(Calibrate),
    ),
    RequestFlag("--warmup", ("warmup",), "N", "Traces that set the threshold.", positive),
    RequestFlag(
        "--keep-top", ("keep_top",), "SHARE", "Share of traces that the threshold keeps.", share
    ),
    RequestFlag(
        "--below",
        ("below",),
        "NATS",
        "The threshold, with --calibrate fixed.",
        finite,
        only_with=("--calibrate", "fixed"),
    ),
    RequestFlag(
        "--window", ("window",), "TOKENS", "Tokens that confidence is the mean of.", positive
    ),
    RequestFlag(
        "--candidates", ("top_k",), "K", "Likeliest tokens that a confidence is made of.", positive
    ),
    RequestFlag(
        "--consensus",
        ("consensus", "rule"),
        "RULE",
        "When traces have agreed enough to end the others.",
        choices=tuple(RULES),
    ),
    RequestFlag(
        "--consensus-threshold", ("consensus", "threshold"), "SHARE", "Of that rule.", share
    ),
    RequestFlag(
        "--min-finished", ("consensus", "min_finished"), "N", "Traces it waits for.", positive
    ),
    RequestFlag("--vote", ("vote",), "A,B", "Ways of voting; the first one decides.", _votes),
    RequestFlag(
        "--min-voters", ("min_voters",), "N", "With fewer, all that ended by themselves.", positive
    ),
    RequestFlag(
        "--extract",
        ("answer", "extract"),
        "HOW",
        "How the answer is found in a trace.",
        choices=EXTRACTS,
    ),
    RequestFlag(
        "--pattern",
        ("answer", "pattern"),
        "REGEX",
        "Of --extract regex, in RE2's syntax.",
        only_with=("--extract", "regex"),
    ),
    RequestFlag(
        "--choices",
        ("answer", "choices"),
        "A,B",
        "Of --extract choice.",
        names,
        only_with=("--extract", "choice"),
    ),
    RequestFlag(
        "--key",
        ("answer", "key"),
        "NAME",
        "Of --extract json: the member that is the answer.",
        only_with=("--extract", "json"),
    ),
    RequestFlag("--equal", ("answer", "equal"), "HOW", "When two answers are one.", choices=EQUALS),
    RequestFlag(
        "--max-total-tokens", ("max_total_tokens",), "N", "Tokens of all traces.", positive
    ),
    RequestFlag(
        "--traces",
        ("traces",),
        "HOW",
        "What OUT says of each trace; the report needs `summary` at least.",
        choices=("summary", "full", "none"),
    ),
)

FLAGS: Final[Mapping[str, Sequence[RequestFlag]]] = {
    "uncertainty": UNCERTAINTY_FLAGS,
    "think": THINK_FLAGS,
}
"""By the object that they fill in."""


def add_request_flags(parser: argparse.ArgumentParser, filled: str) -> None:
    """Add the flags of an object.

    Args:
        filled: its name.
    """
    group = parser.add_argument_group(filled, "For lines that do not say otherwise.")
    for one in FLAGS[filled]:
        listed = f" {', '.join(one.choices)}." if one.choices else ""
        group.add_argument(
            one.flag,
            metavar=one.metavar,
            type=one.type,
            choices=one.choices or None,
            help=f"{one.help}{listed}",
        )


def check_request_flags(
    parser: argparse.ArgumentParser, given: argparse.Namespace, filled: str
) -> None:
    """Refuse flags of `add_request_flags` that mean nothing without another one.

    Raises:
        SystemExit: with 2.
    """
    by_name = {one.flag: one for one in FLAGS[filled]}
    for one in FLAGS[filled]:
        if one.only_with is not None and one.value_in(given) is not None:
            flag, value = one.only_with
            if by_name[flag].value_in(given) != value:
                parser.error(f"{one.flag}: goes with {flag} {value}")


def request_defaults(given: argparse.Namespace, filled: str) -> dict[str, Any]:
    """The object that the flags say.

    Args:
        given: parsed words of a parser with the flags of `add_request_flags`.
        filled: the name of the object.
    """
    found: dict[str, Any] = {}
    for one in FLAGS[filled]:
        value = one.value_in(given)
        if value is not None:
            *way, last = one.place
            at = found
            for name in way:
                at = at.setdefault(name, {})
            at[last] = value
    return found
