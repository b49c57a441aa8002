"""From the collected numbers to what is learned of them, method by method."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache, partial
from itertools import compress
from typing import Any

import numpy as np

from conf_server.fit import density, probes
from conf_server.fit.collected_file import CollectedFile
from conf_server.fit.errors import FitError
from conf_server.fit.moments import Moments, gaussian
from conf_server.fit.options import FitOptions
from conf_server.fit.passes import Pass
from conf_server.fit.reservoir import reservoir
from conf_server.uncertainty.fitted import (
    FITTABLE,
    FittedMethod,
    Gaussian,
    Learner,
    Pooled,
    RelativeGaussian,
)


class Learning:
    """Learns one method after the other; what several have in common is learned once."""

    def __init__(
        self, options: FitOptions, collected: Mapping[tuple[str, str], tuple[Pass, CollectedFile]]
    ) -> None:
        """
        Args:
            collected: by corpus and name, each pass and its numbers.
        """
        self._options = options
        self._collected = collected
        self._gaussian = cache(self._learned_gaussian)

    def method(self, name: str, layer: int | None) -> FittedMethod:
        """Learn one method.

        Raises:
            FitError: naming it.
        """
        learn: dict[Learner, Callable[[str], tuple[Any, int, dict[str, Any]]]] = {
            Learner.GAUSSIAN: self._distance,
            Learner.RELATIVE: self._relative,
            Learner.RANKED: self._ranked,
            Learner.KERNEL: self._kernel,
            Learner.LINEAR: self._linear,
            Learner.PERCEPTRON: self._perceptron,
        }
        try:
            learned, texts, facts = learn[FITTABLE[name].learner](name)
        except FitError as error:
            raise FitError(f"{name}: {error}") from error
        return FittedMethod(layer, texts, learned, facts)

    def _read(self, name: str, corpus: str = "train") -> tuple[CollectedFile, int | None]:
        """The states that a method reads, and the place of its layer in them."""
        of, file = self._collected[corpus, FITTABLE[name].pooled]
        return file, of.places[name]

    def _learned_gaussian(
        self, corpus: str, pooled: Pooled, place: int | None
    ) -> tuple[Gaussian, float]:
        _, file = self._collected[corpus, pooled]
        return gaussian(Moments.of(partial(file.batches, place)), self._options.covariance)

    def _own(self, name: str, corpus: str = "train") -> tuple[Gaussian, dict[str, Any]]:
        _, place = self._read(name, corpus)
        found, amount = self._gaussian(corpus, FITTABLE[name].pooled, place)
        by = self._options.covariance
        amount_name = "shrinkage" if by == "ledoit_wolf" else "jitter"
        return found, {"covariance": by, amount_name: amount}

    def _distance(self, name: str) -> tuple[Any, int, dict[str, Any]]:
        own, facts = self._own(name)
        return own, len(self._read(name)[0]), facts

    def _relative(self, name: str) -> tuple[Any, int, dict[str, Any]]:
        own, facts = self._own(name)
        background, of_background = self._own(name, "background")
        facts["background"] = {"texts": len(self._read(name, "background")[0]), **of_background}
        return RelativeGaussian(own, background), len(self._read(name)[0]), facts

    def _ranked(self, name: str) -> tuple[Any, int, dict[str, Any]]:
        own, facts = self._own(name)
        file, place = self._read(name)
        _, scores = self._collected["train", "logprobs"]
        learned = density.ranked(
            own,
            partial(file.batches, place),
            len(file),
            scores.negative_mean_logprobs(),
            self._options.covariance,
        )
        return learned, len(file), facts

    def _kernel(self, name: str) -> tuple[Any, int, dict[str, Any]]:
        file, place = self._read(name)
        states = np.stack(reservoir(file.vectors(place), self._options.reservoir))
        components = self._options.rde_components
        learned = density.kernel_density(states, components)
        return learned, len(states), {"components": components, "texts_seen": len(file)}

    def _labelled(self, name: str) -> tuple[Any, Any, int]:
        """States (n, d) and whether the answers are wrong (n,), of at most so many lines; and how
        many lines have a label."""
        file, place = self._read(name)
        is_labelled = np.array([label is not None for label in file.labels()])
        pairs = compress(zip(file.vectors(place), file.labels(), strict=True), is_labelled)
        kept = reservoir(pairs, self._options.probe_lines)
        if not kept:
            raise FitError("no line has `correct`")
        states, correct = zip(*kept, strict=True)
        return np.stack(states), ~np.array(correct, bool), int(is_labelled.sum())

    def _linear(self, name: str) -> tuple[Any, int, dict[str, Any]]:
        states, wrong, seen = self._labelled(name)
        learned, facts = probes.linear_probe(states, wrong)
        return learned, len(states), {"texts_seen": seen, **facts}

    def _perceptron(self, name: str) -> tuple[Any, int, dict[str, Any]]:
        states, wrong, seen = self._labelled(name)
        learned, facts = probes.saplma(states, wrong, self._options.epochs)
        return learned, len(states), {"texts_seen": seen, **facts}
