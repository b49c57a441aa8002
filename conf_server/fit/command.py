"""`conf-server fit`, from the command line to the exit status."""

from __future__ import annotations

import asyncio
import shutil
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

from conf_server import __version__
from conf_server.batch.options import StopRunError, UsageError
from conf_server.batch.run import Counts
from conf_server.fit.collect import STATES, Collected, check_lines, collect, features_of
from conf_server.fit.collected_file import CollectedFile
from conf_server.fit.errors import FitError
from conf_server.fit.learn import Learning
from conf_server.fit.options import UHEAD, FitOptions, parse_options
from conf_server.fit.passes import HEAD_SCORES, HEAD_STATES
from conf_server.signals import Signals
from conf_server.uncertainty.fitted import Fitted, Learner
from conf_server.uncertainty.fitted_file import write_fitted

_PACKAGES: Final = ("numpy", "scikit-learn", "torch")
"""Whose versions a fit names, beside our own."""


def main(arguments: Sequence[str]) -> int:
    """Collect hidden states, learn from them and write the fit.

    Returns:
        0 where it is written, 1 where it cannot be made, 2 for bad usage, 130 and 143 after SIGINT
        and SIGTERM.
    """
    options = parse_options(arguments)
    signals, counts = Signals(), Counts()
    try:
        _fit(options, signals, counts)
    except UsageError as error:
        return _failed(error, 2)
    except (FitError, StopRunError, OSError) as error:
        return _failed(error, 1)
    except (asyncio.CancelledError, KeyboardInterrupt):
        _say("stopped; the same command goes on from here" if counts.begun else "stopped")
        return 128 + (signals.received or 2)
    return 0


def _fit(options: FitOptions, signals: Signals, counts: Counts) -> None:
    lines = {"train": check_lines(options.train)}
    if options.background is not None:
        lines["background"] = check_lines(options.background)
    _, labelled = lines["train"]
    learns_labels = options.learners & {Learner.LINEAR, Learner.PERCEPTRON} or options.head
    if learns_labels and not labelled:
        raise UsageError(f"{options.train}: no line has `correct`, which a probe learns from")
    collected = asyncio.run(collect(options, signals, counts))
    if counts.failed and not options.allow_failed:
        raise FitError(
            f"{counts.failed} requests have failed: the same command tries them again, and "
            "--allow-failed leaves their lines out"
        )
    if options.head is not None:
        _train_head(options, collected, lines)
    if options.methods:
        fitted = _learned(options, collected)
        write_fitted(options.folder, fitted, _facts(options, lines))
        _say(f"{len(fitted.methods)} methods in {options.folder}")
    if not options.keep_states:
        shutil.rmtree(options.folder / STATES)


def _train_head(
    options: FitOptions, collected: Collected, lines: dict[str, tuple[int, int]]
) -> None:
    """Train a head, and write it into a folder of its own."""
    from conf_server.fit.head import Examples, trained
    from conf_server.heads.written import write_head

    assert options.head is not None
    files = {one.name: CollectedFile(path) for one, path in collected.files}
    features = features_of(options, collected.model, collected.num_heads)
    states, scores = files.get(HEAD_STATES), files[HEAD_SCORES]
    try:
        examples = Examples(features, states, scores, options.probe_lines)
        weights, facts = trained(options.head, examples, options.epochs)
    except FitError as error:
        raise FitError(f"{UHEAD}: {error}") from error
    folder = options.folder / UHEAD
    facts |= _facts(options, lines)
    write_head(folder, options.head, weights, collected.model, facts)
    found = (
        f", AUROC {facts['auroc']:.3f} of answers that were left out" if "auroc" in facts else ""
    )
    _say(f"{UHEAD}: {len(examples)} texts{found}, in {folder}")


def _learned(options: FitOptions, collected: Collected) -> Fitted:
    files = {(one.corpus, one.name): (one, CollectedFile(path)) for one, path in collected.files}
    learning = Learning(options, files)
    methods = {}
    for name in options.methods:
        layer = collected.layers[name]
        method = methods[name] = learning.method(name, layer)
        auroc = method.facts.get("auroc")
        found = "" if auroc is None else f", AUROC {auroc:.3f} in cross-validation"
        where = "all layers" if layer is None else f"layer {layer}"
        _say(f"{name}: {where}, {method.num_texts} texts{found}")
    return Fitted(collected.model, methods)


def _facts(options: FitOptions, lines: dict[str, tuple[int, int]]) -> dict[str, Any]:
    files = {"train": options.train, "background": options.background}
    data = {
        corpus: {"file": files[corpus], "lines": count, "labelled": labelled}
        for corpus, (count, labelled) in lines.items()
    }
    versions = {"conf-server": __version__}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue  # it was not needed
    return {"data": data, "versions": versions}


def _failed(error: Exception, status: int) -> int:
    _say(f"error: {error}")
    return status


def _say(text: str) -> None:
    print(f"conf-server fit: {text}", file=sys.stderr)
