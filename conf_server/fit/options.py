"""The flags of `conf-server fit`. With --model, every word that is none of them is the server's."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from conf_server.batch.flag_values import names, positive
from conf_server.batch.options import (
    STANDARD_STREAM,
    BatchOptions,
    add_run_flags,
    add_server_flags,
    batch_options,
    check_server_flags,
)
from conf_server.command_parser import CommandParser
from conf_server.fit.errors import FitError
from conf_server.fit.moments import Regularization
from conf_server.fit.passes import ASKING
from conf_server.heads.luh_config import HeadError, LuhConfig, read_config_file, usual_config
from conf_server.nearest import did_you_mean
from conf_server.uncertainty.fitted import FITTABLE, Learner
from conf_server.uncertainty.fitted_file import FACTS

HIDDEN_STATES_FLAG: Final = "--enable-hidden-states"
"""What a server of our own is started with."""

UHEAD: Final = "uhead"
"""The method that is trained as a folder of its own, for the server's --uhead."""

_ANY: Final = (*FITTABLE, UHEAD)

NO_LIBRARIES: Final = "pip install 'conf-server[fit]' installs what it takes"

Layers = Mapping[str | None, int]
"""By method; None for those that are not named. Negative numbers count from the end."""


@dataclass(frozen=True)
class FitOptions:
    """What the command line says.

    Attributes:
        batch: how texts are sent; its input and output are those of a `Pass`.
        train, background: files of lines; `background` is None where nothing is compared with it.
        folder: where the fit is written.
        methods: names, each in `FITTABLE`.
        layers: where states are taken; see `layer`.
        covariance: how a Gaussian's covariance becomes one that has a factor.
        reservoir: most texts that a kernel density is fitted on.
        rde_components: of its kernel PCA.
        probe_lines: most labelled lines that a probe learns from.
        epochs: passes over the lines that `saplma` learns in.
        allow_failed: whether lines that the server refuses may be left out.
        keep_states: whether the states that were collected stay in the folder.
        head: the uncertainty head that is to be trained; None for none.
    """

    batch: BatchOptions
    train: str
    background: str | None
    folder: Path
    methods: tuple[str, ...]
    layers: Layers
    covariance: Regularization
    reservoir: int
    rde_components: int
    probe_lines: int
    epochs: int
    allow_failed: bool
    keep_states: bool
    head: LuhConfig | None

    @property
    def learners(self) -> set[Learner]:
        """Of all methods."""
        return {FITTABLE[name].learner for name in self.methods}

    def layer(self, method: str, num_layers: int) -> int | None:
        """The layer that a method reads: --layers', or the last one, and the middle for a probe;
        None where it reads all of them.

        Raises:
            FitError: the model has no such layer.
        """
        if not FITTABLE[method].pooled.has_layer:
            return None
        usual = num_layers // 2 if FITTABLE[method].learner.is_probe else num_layers
        given = self.layers.get(method, self.layers.get(None, usual))
        layer = given + num_layers + 1 if given < 0 else given
        if not 0 <= layer <= num_layers:
            raise FitError(
                f"--layers: {given} is no layer of the model, which has {num_layers}: 0 (the "
                f"embeddings) to {num_layers}, or -1 to {-num_layers - 1} from the end"
            )
        return layer


def parse_options(arguments: Sequence[str]) -> FitOptions:
    """Parse and check the command line.

    Raises:
        SystemExit: with 2 for bad usage, with 0 after --help.
    """
    parser = make_parser()
    given, others = parser.parse_known_args(list(arguments))
    check_server_flags(parser, given, others)
    _check(parser, given)
    if given.model and HIDDEN_STATES_FLAG not in others:
        others = [*others, HIDDEN_STATES_FLAG]
    batch = batch_options(
        parser,
        given,
        others,
        endpoint=ASKING,
        source=given.train,
        output="",
        defaults={},
    )
    return FitOptions(
        batch=batch,
        train=given.train,
        background=given.background,
        folder=Path(given.output),
        methods=tuple(name for name in dict.fromkeys(given.methods) if name != UHEAD),
        layers=given.layers,
        covariance=given.covariance,
        reservoir=given.reservoir,
        rde_components=given.rde_components,
        probe_lines=given.probe_lines,
        epochs=given.epochs,
        allow_failed=given.allow_failed,
        keep_states=given.keep_states,
        head=_head(parser, given),
    )


def _head(parser: argparse.ArgumentParser, given: argparse.Namespace) -> LuhConfig | None:
    if UHEAD not in given.methods:
        if given.head_config is not None:
            parser.error(f"--head-config: {UHEAD} is none of --methods")
        return None
    if given.head_config is None:
        return usual_config()
    try:
        return read_config_file(Path(given.head_config))
    except HeadError as error:
        parser.error(f"--head-config: {error}")


def _check(parser: argparse.ArgumentParser, given: argparse.Namespace) -> None:
    for name in given.methods:
        if name not in FITTABLE and name != UHEAD:
            hint = did_you_mean(name, _ANY) or f"; those are {', '.join(_ANY)}"
            parser.error(f"--methods: no method {name!r} is fitted{hint}")
    for name in given.layers:
        if name is not None and name not in given.methods:
            parser.error(f"--layers: {name} is none of --methods")
        if name is not None and not FITTABLE[name].pooled.has_layer:
            parser.error(f"--layers: {name} reads all layers")
    if STANDARD_STREAM in (given.train, given.background):
        parser.error("- has no place here: the lines are read more than once")
    learners = {FITTABLE[name].learner for name in given.methods if name != UHEAD}
    if Learner.RELATIVE in learners and given.background is None:
        parser.error("--background: relative_mahalanobis_distance compares with one")
    if Learner.RELATIVE not in learners and given.background is not None:
        parser.error(f"--background: no method of {', '.join(given.methods)} compares with it")
    folder = Path(given.output)
    if (folder / FACTS).exists() and not given.overwrite:
        parser.error(f"-o {folder}: there is a fit already; --overwrite makes another")
    _check_folder(parser, folder)
    needed = {"safetensors": "safetensors"}
    if learners & _OF_SKLEARN:
        needed["sklearn"] = "scikit-learn"
    if UHEAD in given.methods:
        needed |= {"sklearn": "scikit-learn", "torch": "torch"}
    for module, package in needed.items():
        if find_spec(module) is None:
            parser.error(f"{package} is not installed: {NO_LIBRARIES}")


def _check_folder(parser: argparse.ArgumentParser, folder: Path) -> None:
    """The folder is made where it is not there, and so are those above it."""
    there = next(one for one in (folder, *folder.absolute().parents) if one.exists())
    if not there.is_dir():
        parser.error(f"-o {folder}: {there} is no folder")
    if not os.access(there, os.W_OK | os.X_OK):
        parser.error(f"-o {folder}: nothing may be written in {there}")


_OF_SKLEARN: Final = {Learner.KERNEL, Learner.LINEAR, Learner.PERCEPTRON}


def make_parser() -> argparse.ArgumentParser:
    """That of all flags."""
    parser = CommandParser(
        prog="conf-server fit",
        usage="conf-server fit TRAIN -o DIR --methods A,B [--background FILE] "
        "[--url URL | --model PATH [any server flag]] [options]",
        description="Learn from the hidden states of texts what the server's --fitted DIR then "
        "estimates with. A line of TRAIN is a text, or a prompt or chat with its completion, as "
        "POST /v1/score takes it; linear_probe, saplma and lookback_lens want `correct`, true or "
        "false, beside it. The same command again goes on where the last one stopped. Exits with 0 "
        "when the fit is written, 1 when it cannot be made, 2 for bad usage.",
        allow_abbrev=False,
    )
    parser.add_argument("train", metavar="TRAIN", help="JSON lines, .gz or not.")
    parser.add_argument("-o", "--output", metavar="DIR", required=True, help="Written anew.")
    parser.add_argument(
        "--methods",
        metavar="A,B",
        type=names,
        required=True,
        help=f"Any of {', '.join(_ANY)}.",
    )
    parser.add_argument(
        "--background",
        metavar="FILE",
        help="Lines of all kinds of texts, for relative_mahalanobis_distance.",
    )
    add_server_flags(parser)
    _add_learning(parser)
    add_run_flags(parser, ASKING.concurrency)
    return parser


def _add_learning(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("learning")
    group.add_argument(
        "--layers",
        metavar="SPEC",
        type=_layers,
        default={},
        help="Whose states are read: a number for all methods, or METHOD=N,METHOD=N; -1 is the "
        "last layer. Default: the last, and the middle one for linear_probe and saplma.",
    )
    group.add_argument(
        "--covariance",
        choices=("ledoit_wolf", "jitter"),
        default="ledoit_wolf",
        help="ledoit_wolf shrinks covariances, so that few texts are enough; jitter is what "
        "lm-polygraph does. Default: ledoit_wolf.",
    )
    group.add_argument(
        "--reservoir",
        metavar="N",
        type=positive,
        default=2000,
        help="Most texts that rde is fitted on; of more, a sample of fixed seed. Default: 2000.",
    )
    group.add_argument(
        "--rde-components",
        metavar="N",
        type=positive,
        default=100,
        help="Of rde's kernel PCA. Default: 100, lm-polygraph's.",
    )
    group.add_argument(
        "--probe-lines",
        metavar="N",
        type=positive,
        default=20_000,
        help="Most lines with `correct` that a probe learns from. Default: 20000.",
    )
    group.add_argument(
        "--epochs",
        metavar="N",
        type=positive,
        default=5,
        help="Of saplma and uhead. Default: 5, that of saplma's paper.",
    )
    group.add_argument(
        "--head-config",
        metavar="FILE",
        help="What kind of head uhead trains, and on which features: a config.yaml of the luh "
        "package. Default: a claim head on attention and the likeliest tokens.",
    )
    group.add_argument(
        "--allow-failed",
        action="store_true",
        help="Fit although the server has refused some of the lines.",
    )
    group.add_argument(
        "--keep-states",
        action="store_true",
        help="Leave the collected states in DIR/states when the fit is written.",
    )


def _layers(text: str) -> dict[str | None, int]:
    found: dict[str | None, int] = {}
    for part in names(text):
        method, equals, number = part.rpartition("=")
        try:
            layer = int(number)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{part!r} names no layer") from None
        name = method if equals else None
        if name in found:
            raise argparse.ArgumentTypeError(f"two layers for {name or 'all methods'}")
        found[name] = layer
    return found
