"""The flags of `conf-server check`. Every other word of the command line is the engine's."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final

from conf_server.command_parser import CommandParser

DEVICES: Final = ("cpu", "cuda")


@dataclass(frozen=True)
class CheckOptions:
    """What the command line says about the check.

    Attributes:
        reference: the model that transformers loads; None for the engine's.
        reference_device: where transformers runs; None for a GPU if there is one.
        texts: a file with more texts, one a line; None for none.
        new_tokens: how many tokens to generate for each text.
        tolerance_mean: replaces the dtype's limit, in nats; None keeps it.
        tolerance_max: replaces the dtype's limit, in nats; None keeps it.
        tolerance_agreement: replaces the dtype's limit, a share; None keeps it.
        json: whether to print a JSON object in place of the table.
    """

    reference: str | None
    reference_device: str | None
    texts: Path | None
    new_tokens: int
    tolerance_mean: float | None
    tolerance_max: float | None
    tolerance_agreement: float | None
    json: bool


def parse_options(arguments: Sequence[str]) -> tuple[CheckOptions, list[str]]:
    """The check's options, and the words that are left for vLLM's parser.

    Raises:
        SystemExit: with 2 for a flag of ours whose value cannot be meant, with 0 after --help.
    """
    given, others = make_parser().parse_known_args(list(arguments))
    options = {field.name: getattr(given, field.name) for field in fields(CheckOptions)}
    return CheckOptions(**options), others


def make_parser() -> argparse.ArgumentParser:
    """That of the check's own flags."""
    parser = CommandParser(
        prog="conf-server check",
        usage="conf-server check --model PATH [options] [any engine flag of vllm serve]",
        description="Compare the engine's log-probabilities with those of transformers in "
        "float32. Exits with 0 within the tolerance, 1 past it, 2 for bad usage.",
        epilog="For the engine's flags see conf-server --help=all.",
        allow_abbrev=False,
    )
    _add_sides(parser)
    _add_judgement(parser)
    return parser


def _add_sides(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--reference",
        metavar="PATH",
        help="Model that transformers loads. Default: the engine's; a quantized model is best "
        "held against its original.",
    )
    parser.add_argument(
        "--reference-device",
        choices=DEVICES,
        help="Where transformers runs. Default: a GPU if there is one; float32 needs 4 bytes "
        "a parameter there.",
    )
    parser.add_argument(
        "--texts", metavar="FILE", type=Path, help="More texts, one a line, beside the fixed ones."
    )
    parser.add_argument(
        "--new-tokens",
        metavar="N",
        type=_positive,
        default=32,
        help="Tokens to generate for each text. Default: 32.",
    )


def _add_judgement(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--tolerance-mean",
        metavar="NATS",
        type=_limit,
        help="Largest mean difference of a text's log-probabilities. Default: by dtype.",
    )
    parser.add_argument(
        "--tolerance-max",
        metavar="NATS",
        type=_limit,
        help="Largest difference of a token's log-probability, and of its regret. Default: by "
        "dtype.",
    )
    parser.add_argument(
        "--tolerance-agreement",
        metavar="SHARE",
        type=_limit,
        help="Least share, 0 to 1, of tokens with the same argmax. Default: by dtype.",
    )
    parser.add_argument("--json", action="store_true", help="Print one JSON object, no table.")


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text!r}")
    return int(text)


def _limit(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and number >= 0):
        raise argparse.ArgumentTypeError(f"must be a number of at least 0, got {text!r}")
    return number
