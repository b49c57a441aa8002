"""Do fitted methods know when the model is wrong? Cross-validated, on states that a fit has kept.

    conf-server fit answers.jsonl -o DIR --methods ... --keep-states
    python -m evaluation.fitted_methods answers.jsonl -o DIR --methods ...

takes the arguments of the fit. Each of five parts of the answers is estimated by what is learned
from the four others, as the fit learns it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from conf_server.fit.collect import STATES, features_of
from conf_server.fit.collected_file import CollectedFile
from conf_server.fit.head import Examples, learned, logit
from conf_server.fit.learn import Learning
from conf_server.fit.options import UHEAD, FitOptions, parse_options
from conf_server.fit.passes import HEAD_SCORES, HEAD_STATES, passes
from conf_server.report.evaluation_metrics import Levels, auroc, prr
from conf_server.report.resampling import bootstrap_intervals
from conf_server.uncertainty.evidence import Evidence, Generation
from conf_server.uncertainty.fitted import FITTABLE, Fitted
from conf_server.uncertainty.fitted_file import load_fitted
from conf_server.uncertainty.registry import METHODS

PARTS: Final = 5
SEED: Final = 20261126

Values = NDArray[np.float64]
Wrong = NDArray[np.bool_]


def parts(count: int) -> NDArray[np.int64]:
    """(count,) the part that each answer is in."""
    return np.random.default_rng(SEED).permutation(count) % PARTS


class CrossValidation:
    """Learns from all parts of the answers but one, in turn, and estimates that one."""

    def __init__(self, options: FitOptions) -> None:
        self._options = options
        self._fitted = load_fitted(options.folder)
        layers = {name: self.layer(name) for name in options.methods}
        self._passes = passes(options.methods, layers)
        train = next(one for one in self._passes if one.corpus == "train")
        self._lines = self._file(train.file_name).lines
        self._part = parts(len(self._lines))

    def layer(self, name: str) -> int | None:
        """Whose states a method reads; None for all layers."""
        return self._fitted.methods[name].layer

    def estimates(self, name: str) -> tuple[Values, Wrong]:
        """(n,) uncertainty of each answer, and whether it is wrong."""
        (own,) = (one for one in self._passes if name in one.places and one.corpus == "train")
        file = self._file(own.file_name)
        assert file.lines.tolist() == self._lines.tolist()
        found = np.empty(len(self._lines))
        vectors = [*file.vectors(own.places[name])]
        for left, learning in enumerate(self._learnings):
            method = learning.method(name, self.layer(name))
            fitted = Fitted(self._fitted.model, {name: method})
            for i in np.flatnonzero(self._part == left):
                found[i] = METHODS[name].estimate(self._evidence(name, fitted, vectors, i)).value
        return found, ~np.array(list(file.labels()), bool)

    @cached_property
    def _learnings(self) -> list[Learning]:
        """By part, what learns from the others."""
        found = []
        for left in range(PARTS):
            others = frozenset(self._lines[self._part != left].tolist())
            only = {"train": others, "background": None}
            files = {
                (one.corpus, one.name): (one, self._file(one.file_name, only[one.corpus]))
                for one in self._passes
            }
            found.append(Learning(self._options, files))
        return found

    def _evidence(
        self, name: str, fitted: Fitted, vectors: Sequence[NDArray[np.float32]], i: int
    ) -> Evidence:
        vector, pooled = vectors[i].astype(np.float64), FITTABLE[name].pooled
        if not pooled.has_layer:
            return Evidence(fitted=fitted, lookback_ratios=vector)
        states: dict[str, Any] = {f"{pooled}_states": {self.layer(name): vector}}
        return Evidence(fitted=fitted, answer=self._answers.get(i), **states)

    @cached_property
    def _answers(self) -> dict[int, Generation]:
        """By answer, one token whose log-probability is the mean of them all, if it is known."""
        scores = [one.file_name for one in self._passes if one.name == "logprobs"]
        means = self._file(scores[0]).negative_mean_logprobs() if scores else ()
        return {i: Generation("", np.array([-mean])) for i, mean in enumerate(means)}

    def head_logits(self) -> tuple[Values, Wrong]:
        """What heads of the kind that the fit has trained say of the answers, as `estimates`.

        Each head's logits are told from their own mean: where a network that has learned little
        puts its zero differs more between heads than what it says of one answer and another.
        """
        assert self._options.head is not None
        states = self._file(f"train.{HEAD_STATES}.jsonl")
        (result,) = next(states.answers())["result"]["data"]
        _, _, num_heads, _ = result["attention"]["weights"]["shape"]
        features = features_of(self._options, self._fitted.model, num_heads)
        scores = self._file(f"train.{HEAD_SCORES}.jsonl")
        examples = Examples(features, states, scores, self._options.probe_lines)
        part, found = parts(len(examples)), np.empty(len(examples))
        for left in range(PARTS):
            others = np.flatnonzero(part != left)
            network = learned(self._options.head, examples, others, self._options.epochs)
            for i in np.flatnonzero(part == left):
                found[i] = logit(network, examples[int(i)]).item()
            found[part == left] -= found[part == left].mean()
        return found, examples.wrong

    def _file(self, name: str, only: frozenset[int] | None = None) -> CollectedFile:
        return CollectedFile(self._options.folder / STATES / name, only)


def row(name: str, layer: int | None, values: Values, wrong: Wrong) -> str:
    """A line of the table."""
    intervals = bootstrap_intervals([auroc, prr], values, wrong)
    cells = [
        f"{metric(Levels.of(values, wrong)):.3f} [{interval[0]:.3f}, {interval[1]:.3f}]"
        for metric, interval in zip((auroc, prr), intervals, strict=True)
        if interval is not None
    ]
    return f"| `{name}` | {'all' if layer is None else layer} | {' | '.join(cells)} |"


def main(arguments: Sequence[str]) -> None:
    # The fit is there; it is read here and not made anew.
    options = parse_options([*arguments, "--overwrite"])
    of = CrossValidation(options)
    print("| method | layer | AUROC | PRR |\n|---|---:|---|---|")
    for name in options.methods:
        print(row(name, of.layer(name), *of.estimates(name)), flush=True)
    if options.head is not None:
        print(row(UHEAD, None, *of.head_logits()), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
